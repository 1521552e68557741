"""Caller workflows: they run one operation as planned and report how it ended, without judging it."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import temporalio.api.workflowservice.v1 as api
from nexusrpc import HandlerError
from temporalio import workflow
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, NexusOperationError, TimeoutError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.workflow import NexusOperationCancellationType

from .service import SERVICE

CALLER_QUEUE = "callers"


@dataclass
class Plan:
    """One operation to run."""

    endpoint: str
    operation: str
    input: Any = None
    service: str = SERVICE
    headers: dict[str, str] = field(default_factory=dict)
    schedule_to_close: float | None = 300
    """Seconds; a guard unless a test says otherwise. None: no limit is sent."""
    cancel: str = ""
    """Cancel once started, and wait so: wait_completed, wait_requested or try_cancel. Empty: do not cancel."""
    cancel_on_signal: bool = False
    """Cancel only when the signal `cancel_now` has come."""


@dataclass
class Outcome:
    """How the operation ended for the caller."""

    result: Any = None
    error: list[dict[str, Any]] = field(default_factory=list)
    """The chain of failures, outermost first; empty when the operation succeeded."""
    asynchronous: bool = False
    """Whether the handler answered with an operation token."""

    @property
    def kinds(self) -> list[str]:
        return [cause["kind"] for cause in self.error]

    def cause(self, kind: str) -> dict[str, Any]:
        """The first failure of this kind in the chain."""
        for cause in self.error:
            if cause["kind"] == kind:
                return cause
        raise AssertionError(f"no {kind} in {self}")


def describe(error: BaseException) -> dict[str, Any]:
    """What a caller can tell from one failure. Endpoint names and ids differ between two runs and are left out."""
    told: dict[str, Any] = {"kind": type(error).__name__, "message": getattr(error, "message", str(error))}
    if isinstance(error, HandlerError):
        told |= {"type": error.raw_error_type, "retryable": error.retryable, "override": error.retryable_override}
    elif isinstance(error, ApplicationError):
        told |= {"type": error.type, "non_retryable": error.non_retryable, "details": list(error.details)}
    elif isinstance(error, TimeoutError):
        told |= {"type": error.type.name if error.type else None}
    return told


def chain(error: BaseException | None) -> list[dict[str, Any]]:
    found = []
    while error is not None:
        found.append(describe(error))
        error = error.__cause__
    return found


@workflow.defn
class CallOperation:
    """Runs one operation."""

    def __init__(self) -> None:
        self._canceling = False

    @workflow.signal
    def cancel_now(self) -> None:
        self._canceling = True

    @workflow.run
    async def run(self, plan: Plan) -> Outcome:
        client = workflow.create_nexus_client(service=plan.service, endpoint=plan.endpoint)
        outcome = Outcome()
        try:
            handle: workflow.NexusOperationHandle[Any] = await client.start_operation(
                plan.operation,
                plan.input,
                headers=plan.headers,
                schedule_to_close_timeout=timedelta(seconds=plan.schedule_to_close) if plan.schedule_to_close else None,
                cancellation_type=NexusOperationCancellationType[plan.cancel.upper() or "WAIT_COMPLETED"],
            )
            outcome.asynchronous = handle.operation_token is not None
            if plan.cancel_on_signal:
                await workflow.wait_condition(lambda: self._canceling)
            if plan.cancel:
                handle.cancel()
            outcome.result = await handle
        except NexusOperationError as error:
            outcome.error = chain(error)
        return outcome


@workflow.defn
class RunOperation:
    """Runs one operation, and ends as it does."""

    @workflow.run
    async def run(self, plan: Plan) -> Any:
        client = workflow.create_nexus_client(service=plan.service, endpoint=plan.endpoint)
        limit = timedelta(seconds=plan.schedule_to_close) if plan.schedule_to_close else None
        return await client.execute_operation(plan.operation, plan.input, schedule_to_close_timeout=limit)


LARGE = 1_900_000
"""Bytes of the large payload: just under Temporal's limit of 2 MiB for one."""

PAYLOADS: dict[str, Callable[[], Payload]] = {
    "json": lambda: Payload(metadata={"encoding": b"json/plain"}, data='{"a": [1, 2.50, "ü\\n"], "b":null}'.encode()),
    "binary": lambda: Payload(metadata={"encoding": b"binary/plain"}, data=bytes(range(256))),
    "null": lambda: Payload(metadata={"encoding": b"binary/null"}),
    "protobuf": lambda: Payload(
        metadata={"encoding": b"binary/protobuf", "messageType": b"temporal.api.common.v1.WorkflowExecution"},
        data=WorkflowExecution(workflow_id="w", run_id="r").SerializeToString(),
    ),
    "json protobuf": lambda: Payload(
        metadata={"encoding": b"json/protobuf", "messageType": b"temporal.api.common.v1.WorkflowExecution"},
        data=b'{"workflowId":"w"}',
    ),
    "own encoding": lambda: Payload(metadata={"encoding": b"binary/own", "note": b"kept"}, data=b"\x00\xff{}"),
    "empty binary": lambda: Payload(metadata={"encoding": b"binary/plain"}),
    "large": lambda: Payload(metadata={"encoding": b"binary/plain"}, data=hashlib.sha256().digest() * (LARGE // 32)),
}
"""Payloads that must cross without a change, by name."""


@dataclass
class Copy:
    """What came back for a payload."""

    metadata: dict[str, str]
    size: int
    same: bool


@workflow.defn
class EchoPayload:
    """Sends one of `PAYLOADS` to `echo`; made here, so that only the operation carries it."""

    @workflow.run
    async def run(self, endpoint: str, name: str) -> Copy:
        sent = PAYLOADS[name]()
        client = workflow.create_nexus_client(service=SERVICE, endpoint=endpoint)
        back = await client.execute_operation(
            "echo", RawValue(sent), output_type=RawValue, schedule_to_close_timeout=timedelta(minutes=5)
        )
        metadata = {key: value.decode() for key, value in back.payload.metadata.items()}
        return Copy(metadata, len(back.payload.data), back.payload == sent)


def caller_worker(client: Client) -> Worker:
    """A worker for the caller workflows of a cluster."""
    return Worker(
        client,
        task_queue=CALLER_QUEUE,
        workflows=[CallOperation, RunOperation, EchoPayload],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


async def begin(client: Client, plan: Plan) -> WorkflowHandle[Any, Outcome]:
    """Starts a caller workflow; waits for a cluster that was stopped to go on."""
    return await client.start_workflow(
        CallOperation.run,
        plan,
        id=f"call-{plan.operation}-{uuid.uuid4()}",
        task_queue=CALLER_QUEUE,
        rpc_timeout=timedelta(minutes=2),
    )


async def call(client: Client, plan: Plan) -> Outcome:
    """Runs one operation to its end."""
    return await (await begin(client, plan)).result()


async def echo_payload(client: Client, endpoint: str, name: str) -> Copy:
    return await client.execute_workflow(
        EchoPayload.run, args=[endpoint, name], id=f"echo-{uuid.uuid4()}", task_queue=CALLER_QUEUE
    )


async def events(handle: WorkflowHandle[Any, Any], kind: str) -> list[HistoryEvent]:
    """The Nexus events of a caller workflow that are of one kind: scheduled, started, completed, failed, …"""
    type = EventType.Value(f"EVENT_TYPE_NEXUS_OPERATION_{kind.upper()}")
    return [event async for event in handle.fetch_history_events() if event.event_type == type]


async def pending(client: Client, handle: WorkflowHandle[Any, Any]) -> list[Any]:
    """The operations of a caller workflow that have not ended, as the caller's cluster describes them."""
    request = api.DescribeWorkflowExecutionRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=handle.id)
    )
    described = await client.workflow_service.describe_workflow_execution(request)
    return list(described.pending_nexus_operations)
