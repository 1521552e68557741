"""A policy with `redact: on`: callers see type and message of a failure, and nothing of the inside of its handler.

The worker here does its worst: it returns its whole stack with the paths of its files, and causes that name more of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import nexusrpc
import pytest
import pytest_asyncio
from nexusrpc import handler as nexus_handler
from temporalio import activity, nexus, workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from harness.caller import Plan, begin, events
from harness.fenced import RelayingGateway
from harness.world import Lane, World, make_pair

QUEUE = "talkative"
SERVICE = "Talkative"
SECRETS = ("/srv/secret", Path(__file__).name, "site-packages", "Traceback")
"""What must not come through: text of causes, and what stack traces consist of."""


def cause() -> Exception:
    """An exception with a stack and a cause of its own."""
    try:
        try:
            raise OSError("cannot open /srv/secret/inner")
        except OSError as inner:
            raise ValueError("bad value in /srv/secret/outer") from inner
    except ValueError as outer:
        return outer


@activity.defn
async def charge() -> None:
    raise ApplicationError("card declined", {"card": "4242"}, type="CardDeclined", non_retryable=True) from cause()


@workflow.defn
class ChargeWorkflow:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(charge, start_to_close_timeout=timedelta(seconds=30))


@workflow.defn
class BrokenWorkflow:
    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("the job failed", {"why": "x"}, type="JobFailed", non_retryable=True) from cause()


@nexus_handler.service_handler(name=SERVICE)
class Talkative:
    @nexus_handler.sync_operation
    async def handler_error(self, ctx: nexus_handler.StartOperationContext, input: None) -> None:
        raise nexusrpc.HandlerError("no such order", type=nexusrpc.HandlerErrorType.NOT_FOUND) from cause()

    @nexus_handler.sync_operation
    async def application_error(self, ctx: nexus_handler.StartOperationContext, input: None) -> None:
        raise ApplicationError("out of stock in /srv/secret/db", type="OutOfStock", non_retryable=True) from cause()

    @nexus_handler.sync_operation
    async def operation_error(self, ctx: nexus_handler.StartOperationContext, input: None) -> None:
        raise nexusrpc.OperationError("order refused", state=nexusrpc.OperationErrorState.FAILED) from cause()

    @nexus.workflow_run_operation
    async def activity(self, ctx: nexus.WorkflowRunOperationContext, input: None) -> nexus.WorkflowHandle[None]:
        return await ctx.start_workflow(ChargeWorkflow.run, id=f"charge-{ctx.request_id}")

    @nexus.workflow_run_operation
    async def broken(self, ctx: nexus.WorkflowRunOperationContext, input: None) -> nexus.WorkflowHandle[None]:
        return await ctx.start_workflow(BrokenWorkflow.run, id=f"broken-{ctx.request_id}")


READ = {
    # What servers make of its text differs; that it is there is asserted besides.
    "handler_error": ("HandlerError", {"type": "NOT_FOUND", "retryable": False}),
    "operation_error": ("ApplicationError", {"type": "OperationError", "message": "order refused"}),
    "activity": (
        "ApplicationError",
        {"type": "CardDeclined", "message": "card declined", "non_retryable": True, "details": [{"card": "4242"}]},
    ),
    "broken": ("ApplicationError", {"type": "JobFailed", "message": "the job failed", "non_retryable": True}),
    # The SDK wraps it, and puts its type and its text where those of any other exception would be.
    "application_error": ("ApplicationError", {"type": "OutOfStock", "non_retryable": True}),
}
"""Operation → the failure in the chain that its caller looks for, and what the caller reads of it."""


@pytest_asyncio.fixture(scope="session")
async def talkative(world: World) -> AsyncIterator[RelayingGateway]:
    """Workers that tell all on each handler's cluster, behind a gateway that cuts it."""
    handlers = {name: site for name, site in world.sites.items() if name != "caller"}
    gateway = RelayingGateway(
        {name: site.cluster.url for name, site in handlers.items()}, more="policies:\n  - redact: on"
    )
    workers = [
        Worker(
            site.client,
            task_queue=QUEUE,
            workflows=[ChargeWorkflow, BrokenWorkflow],
            activities=[charge],
            nexus_service_handlers=[Talkative()],
            workflow_runner=UnsandboxedWorkflowRunner(),
        )
        for site in handlers.values()
    ]
    try:
        await asyncio.to_thread(gateway.start)
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        yield gateway
        await asyncio.gather(*[worker.shutdown() for worker in workers])
        await asyncio.gather(*tasks)
    finally:
        gateway.stop()


async def fail(lane: Lane, endpoint: str, operation: str) -> tuple[Any, str]:
    """How an operation ended for its caller, and all that the caller's cluster wrote down of that."""
    handle = await begin(lane.caller.client, Plan(endpoint, operation, service=SERVICE))
    outcome = await handle.result()
    [failed] = await events(handle, "failed")
    return outcome, str(failed)


@pytest.mark.parametrize("operation", READ)
async def test_callers_see_type_and_message_and_no_path(
    lane: Lane, talkative: RelayingGateway, operation: str
) -> None:
    pair = await make_pair(lane.caller, lane.handler, talkative, QUEUE)
    (via, told), (direct, all) = await asyncio.gather(
        fail(lane, pair.via, operation), fail(lane, pair.direct, operation)
    )
    assert all.count("stack_trace") > 1 and "/srv/secret" in all, "the handler hides something by itself"
    for secret in SECRETS:
        assert secret not in told, told
    assert "stack_trace" not in told, told
    kind, read = READ[operation]
    for outcome in (via, direct):
        found = outcome.cause(kind)
        assert {key: found[key] for key in read} == read
        if operation == "handler_error":
            assert "no such order" in str(outcome.error), outcome
    assert via.kinds == direct.kinds[: len(via.kinds)], "nothing but the end of the chain is cut"
