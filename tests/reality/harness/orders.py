"""The demo's Nexus service, on the handler's cluster, and its caller workflow, on the caller's.

The caller knows nothing but the name of an endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import nexusrpc
from nexusrpc import handler as nexus_handler
from temporalio import nexus, workflow
from temporalio.exceptions import NexusOperationError

from .caller import Outcome, chain

SERVICE = "OrderService"
HANDLER_QUEUE = "orders-tq"
CALLER_QUEUE = "shoppers-tq"


@dataclass
class Order:
    item: str
    count: int


@workflow.defn
class Delivery:
    """Behind `place`: packs an order."""

    @workflow.run
    async def run(self, order: Order) -> str:
        return f"{order.count} x {order.item}, delivered"


@workflow.defn
class Subscription:
    """Behind `subscribe`: goes on until it is canceled."""

    @workflow.run
    async def run(self, order: Order) -> None:
        await workflow.wait_condition(lambda: False)


@nexus_handler.service_handler(name=SERVICE)
class OrderService:
    """One operation for each way in which a Nexus operation can end."""

    @nexus_handler.sync_operation
    async def quote(self, ctx: nexus_handler.StartOperationContext, input: Order) -> str:
        return f"{input.count * 2.5:.2f} EUR"

    @nexus.workflow_run_operation
    async def place(self, ctx: nexus.WorkflowRunOperationContext, input: Order) -> nexus.WorkflowHandle[str]:
        return await ctx.start_workflow(Delivery.run, input, id=f"delivery-{ctx.request_id}")

    @nexus_handler.sync_operation
    async def charge(self, ctx: nexus_handler.StartOperationContext, input: Order) -> str:
        raise nexusrpc.OperationError("the card was declined", state=nexusrpc.OperationErrorState.FAILED)

    @nexus_handler.sync_operation
    async def refund(self, ctx: nexus_handler.StartOperationContext, input: Order) -> str:
        raise nexusrpc.HandlerError("only staff may refund", type=nexusrpc.HandlerErrorType.UNAUTHORIZED)

    @nexus.workflow_run_operation
    async def subscribe(self, ctx: nexus.WorkflowRunOperationContext, input: Order) -> nexus.WorkflowHandle[None]:
        return await ctx.start_workflow(Subscription.run, input, id=f"subscription-{ctx.request_id}")


@workflow.defn
class Shopper:
    """The caller: runs all operations, one after the other, and reports how each one ended."""

    @workflow.run
    async def run(self, endpoint: str, order: Order) -> dict[str, Outcome]:
        shop = workflow.create_nexus_client(service=SERVICE, endpoint=endpoint)
        ended: dict[str, Outcome] = {}
        for operation in ("quote", "place", "charge", "refund", "subscribe"):
            ended[operation] = await self._one(shop, operation, order)
        return ended

    async def _one(self, shop: workflow.NexusClient[Any], operation: str, order: Order) -> Outcome:
        outcome = Outcome()
        try:
            handle: workflow.NexusOperationHandle[Any] = await shop.start_operation(
                operation, order, schedule_to_close_timeout=timedelta(minutes=1)
            )
            outcome.asynchronous = handle.operation_token is not None
            if operation == "subscribe":
                handle.cancel()
            outcome.result = await handle
        except NexusOperationError as error:
            outcome.error = chain(error)
        return outcome
