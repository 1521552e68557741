"""The Nexus service that the tests call: a handler for each way in which an operation can end.

A `Journal` records every call that reached a handler, with all it saw, and holds the gates that tests open.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import nexusrpc
from nexusrpc import handler as nexus_handler
from temporalio import nexus, workflow
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from .planted import note

SERVICE = "RealityService"
ODD_SERVICE = "Sérvice of 100% odd+names"
ODD_OPERATION = "an operation: ünusual; a=b&c"
ODD_TOKEN = "token/with?odd=characters&a%20b+c"


@dataclass
class Call:
    """One request as a handler saw it."""

    operation: str
    method: str
    headers: dict[str, str]
    endpoint: str
    task_queue: str
    request_id: str = ""
    callback_url: str | None = None
    callback_headers: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    has_deadline: bool = False
    token: str = ""


class Journal:
    """What reached the handlers of one worker, and the gates that hold some of them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def note(self, context: nexus_handler.OperationContext, token: str = "") -> Call:
        info = nexus.info()
        call = Call(
            operation=context.operation,
            method="start",
            headers=dict(context.headers),
            endpoint=info.endpoint,
            task_queue=info.task_queue,
            has_deadline=context.request_deadline is not None,
            token=token,
        )
        if isinstance(context, nexus_handler.StartOperationContext):
            call.request_id = context.request_id
            call.callback_url = context.callback_url
            call.callback_headers = dict(context.callback_headers)
            note(*call.callback_headers.values(), (call.callback_url or "").rpartition("/")[2])
            call.links = [(link.type, link.url) for link in context.inbound_links]
        else:
            call.method = "cancel"
        self.calls.append(call)
        return call

    def tries(self, request_id: str) -> int:
        """How often a start with this request id has arrived."""
        return sum(1 for call in self.calls if call.request_id == request_id and call.method == "start")

    def of(self, method: str, token: str) -> list[Call]:
        return [call for call in self.calls if call.method == method and call.token == token]

    def gate(self, key: str) -> asyncio.Event:
        return self._gates[key]


@dataclass
class Trouble:
    """Which handler error to raise, and for how many tries of the same request."""

    type: str
    tries: int = 1
    retryable: bool | None = None


@dataclass
class Job:
    """What the workflow behind an asynchronous operation does."""

    text: str
    then: str = "complete"
    """complete, fail, or wait (until it is canceled)."""
    after: float = 0
    """Seconds that it takes."""
    times: int = 1
    """How often its result repeats the text."""
    answers: float = 0
    """Seconds that the handler takes to answer, in which the answer can still be lost (`named` and `answer` only)."""


@workflow.defn
class JobWorkflow:
    """The workflow behind `job`."""

    @workflow.run
    async def run(self, job: Job) -> str:
        if job.after:
            await asyncio.sleep(job.after)
        if job.then == "fail":
            raise ApplicationError("the job failed", {"why": job.text}, type="JobFailed", non_retryable=True)
        if job.then == "wait":
            await workflow.wait_condition(lambda: False)
        return f"done: {job.text * job.times}"


def named_id(text: str) -> str:
    """The id of the workflow behind `named`."""
    return f"named-{text}".replace(" ", "-")


class ByHand(nexus_handler.OperationHandler[str, str]):
    """An asynchronous operation without a workflow: its token is whatever the caller sent, and it never completes by
    itself. A test can complete it with the callback that the journal shows."""

    def __init__(self, journal: Journal, slow: bool = False) -> None:
        """`slow`: it answers only when the test opens the gate of the token's name."""
        self._journal, self._slow = journal, slow

    async def start(
        self, ctx: nexus_handler.StartOperationContext, input: str
    ) -> nexus_handler.StartOperationResultAsync:
        self._journal.note(ctx, input)
        if self._slow:
            await self._journal.gate(input).wait()
        return nexus_handler.StartOperationResultAsync(input)

    async def cancel(self, ctx: nexus_handler.CancelOperationContext, token: str) -> None:
        self._journal.note(ctx, token)


@nexus_handler.service_handler(name=SERVICE)
class RealityService:
    """The operations."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    @nexus_handler.sync_operation
    async def echo(self, ctx: nexus_handler.StartOperationContext, input: RawValue) -> RawValue:
        """Gives its input back, whatever it is."""
        self.journal.note(ctx)
        return input

    @nexus_handler.sync_operation
    async def observe(self, ctx: nexus_handler.StartOperationContext, input: Any) -> dict[str, Any]:
        """Tells what it saw of the request."""
        call = self.journal.note(ctx)
        return {**call.__dict__}

    @nexus.workflow_run_operation
    async def job(self, ctx: nexus.WorkflowRunOperationContext, input: Job) -> nexus.WorkflowHandle[str]:
        """Runs `JobWorkflow`."""
        self.journal.note(ctx)
        return await ctx.start_workflow(JobWorkflow.run, input, id=f"job-{ctx.request_id}")

    @nexus.workflow_run_operation
    async def named(self, ctx: nexus.WorkflowRunOperationContext, input: Job) -> nexus.WorkflowHandle[str]:
        """Runs `JobWorkflow` under an id that only the input determines: whoever starts it twice can be counted."""
        self.journal.note(ctx)
        handle = await ctx.start_workflow(JobWorkflow.run, input, id=named_id(input.text))
        await asyncio.sleep(input.answers)
        return handle

    @nexus_handler.sync_operation
    async def answer(self, ctx: nexus_handler.StartOperationContext, input: Job) -> str:
        """Does without a workflow what `named` does with one."""
        self.journal.note(ctx)
        await asyncio.sleep(input.answers)
        return f"done: {input.text}"

    @nexus.workflow_run_operation
    async def early(self, ctx: nexus.WorkflowRunOperationContext, input: str) -> nexus.WorkflowHandle[str]:
        """Runs `JobWorkflow`, which ends, and answers only when the test opens the gate of this name."""
        handle = await ctx.start_workflow(JobWorkflow.run, Job(input), id=f"early-{ctx.request_id}")
        self.journal.note(ctx, input)
        await self.journal.gate(input).wait()
        return handle

    @nexus_handler.operation_handler
    def by_hand(self) -> nexus_handler.OperationHandler[str, str]:
        return ByHand(self.journal)

    @nexus_handler.operation_handler
    def by_slow_hand(self) -> nexus_handler.OperationHandler[str, str]:
        return ByHand(self.journal, slow=True)

    @nexus_handler.sync_operation
    async def operation_error(self, ctx: nexus_handler.StartOperationContext, input: str) -> str:
        """Ends the operation as failed or canceled."""
        self.journal.note(ctx)
        raise nexusrpc.OperationError(f"ended as {input}", state=nexusrpc.OperationErrorState(input))

    @nexus_handler.sync_operation
    async def handler_error(self, ctx: nexus_handler.StartOperationContext, input: Trouble) -> int:
        """Raises a handler error for the first tries of a request; then returns how many tries there were."""
        self.journal.note(ctx)
        tries = self.journal.tries(ctx.request_id)
        if tries <= input.tries:
            raise nexusrpc.HandlerError(
                f"{input.type} at try {tries}", type=input.type, retryable_override=input.retryable
            )
        return tries

    @nexus_handler.sync_operation
    async def slow_at_first(self, ctx: nexus_handler.StartOperationContext, input: None) -> int:
        """Outlives the time of the first try; answers the second at once."""
        self.journal.note(ctx)
        tries = self.journal.tries(ctx.request_id)
        if tries == 1:
            await ctx.task_cancellation.wait_until_cancelled()
        return tries

    @nexus_handler.sync_operation
    async def held(self, ctx: nexus_handler.StartOperationContext, input: str) -> str:
        """Waits until the test opens the gate of this name."""
        self.journal.note(ctx, input)
        await self.journal.gate(input).wait()
        return f"passed {input}"

    @nexus_handler.sync_operation
    async def queue(self, ctx: nexus_handler.StartOperationContext, input: Any) -> str:
        """Names the task queue that it was called through."""
        return nexus.info().task_queue


@nexus_handler.service_handler(name=ODD_SERVICE)
class OddlyNamed:
    """A service and an operation whose names need percent-encoding."""

    @nexus_handler.sync_operation(name=ODD_OPERATION)
    async def odd(self, ctx: nexus_handler.StartOperationContext, input: str) -> str:
        return f"{ctx.service}|{ctx.operation}|{input}"


def handler_worker(client: Client, task_queue: str, journal: Journal) -> Worker:
    """A worker that serves all of this on a task queue."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[JobWorkflow],
        nexus_service_handlers=[RealityService(journal), OddlyNamed()],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
