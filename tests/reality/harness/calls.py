"""Operations started at a steady rate, by a Temporal caller or by raw requests, and how each of them ended.

The Temporal caller runs standalone operations: to the cluster that sends them they are the same outbound tasks, behind
the same breaker, as those of workflows, at half the CPU. Servers that have none yet run a workflow for each. How they
ended is asked for only afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import NexusOperationExecutionStatus

from .caller import CALLER_QUEUE, Plan, RunOperation
from .cluster import NEWEST
from .service import SERVICE
from .traffic import start_headers

AT_ONCE = 50
"""Requests about ended operations that are under way at a time."""


async def in_groups(work: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """The results of many small requests, `AT_ONCE` at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(piece: Callable[[], Awaitable[Any]]) -> Any:
        async with places:
            return await piece()

    return await asyncio.gather(*[one(piece) for piece in work])


class Steady:
    """Begins `one` so many times a second until left; keeps to the average when the machine falls behind."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._running: set[asyncio.Task[None]] = set()
        self._clock: asyncio.Task[None] | None = None

    async def one(self) -> None:
        raise NotImplementedError

    async def _begin(self) -> None:
        began, count = time.monotonic(), 0
        while True:
            task = asyncio.create_task(self.one())
            self._running.add(task)
            task.add_done_callback(self._ended)
            count += 1
            await asyncio.sleep(max(0.0, began + count / self._rate - time.monotonic()))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.result()

    async def __aenter__(self) -> Any:
        self._clock = asyncio.create_task(self._begin())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._clock is not None
        self._clock.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._clock
        await asyncio.gather(*self._running)


@dataclass(frozen=True)
class Operation:
    """One standalone operation. Times are seconds since the epoch, by the caller's cluster."""

    scheduled: float
    closed: float | None
    """None: it has not ended."""
    succeeded: bool

    def latency(self, now: float) -> float:
        """Time until it ended; at least so long where it has not."""
        return (self.closed or now) - self.scheduled


def successes(operations: Sequence[Operation]) -> int:
    return sum(1 for operation in operations if operation.succeeded)


class Calls(Steady):
    """Standalone operations of a Temporal caller on one endpoint."""

    def __init__(
        self,
        client: Client,
        endpoint: str,
        operation: str = "echo",
        input: Any = "x",
        rate: float = 20,
        limit: float = 600,
    ) -> None:
        """`limit`: seconds after which the caller's cluster gives an operation up."""
        super().__init__(rate)
        self._client, self._endpoint = client, endpoint
        self._operation, self._input = operation, input
        self._limit = limit
        self._open: list[Any] = []
        self.ended: list[Operation] = []

    async def one(self) -> None:
        self._open.append(await self._start(f"{self._operation}-{uuid.uuid4()}"))

    async def _start(self, id: str) -> Any:
        """Something that can be described and terminated."""
        nexus = self._client.create_nexus_client(SERVICE, endpoint=self._endpoint)
        limit = timedelta(seconds=self._limit)
        return await nexus.start_operation(self._operation, self._input, id=id, schedule_to_close_timeout=limit)

    @staticmethod
    def _operation_of(told: Any) -> Operation:
        return Operation(
            scheduled=told.schedule_time.timestamp(),
            closed=told.close_time.timestamp() if told.status != NexusOperationExecutionStatus.RUNNING else None,
            succeeded=told.status == NexusOperationExecutionStatus.COMPLETED,
        )

    async def _look(self) -> list[Operation]:
        """Asks after all that were open; what has ended moves to `ended`, the rest is returned."""
        handles, self._open = self._open, []
        still: list[Operation] = []
        for handle, told in zip(handles, await in_groups([handle.describe for handle in handles]), strict=True):
            found = self._operation_of(told)
            (still if found.closed is None else self.ended).append(found)
            if found.closed is None:
                self._open.append(handle)
        return still

    async def settle(self, patience: float) -> list[Operation]:
        """All operations, once they have ended or `patience` seconds later; those left are then terminated."""
        now = time.monotonic()
        until = now + patience
        while (still := await self._look()) and time.monotonic() < until:
            # Asking costs the caller's cluster a millisecond for each: it is left four fifths of its time.
            await asyncio.sleep(max(1.0, 4 * (time.monotonic() - now)))
            now = time.monotonic()
        await self.abandon()
        return [*self.ended, *still]

    async def abandon(self) -> None:
        """Terminates what is open, so that the caller's cluster does not go on with it beside other tests."""

        async def end(handle: Any) -> None:
            with contextlib.suppress(Exception):  # it may have ended meanwhile
                await handle.terminate()

        await in_groups([lambda handle=handle: end(handle) for handle in self._open])
        self._open = []


class WorkflowCalls(Calls):
    """The same by workflows that run one operation each; the times are those of the workflow."""

    async def _start(self, id: str) -> Any:
        plan = Plan(self._endpoint, self._operation, self._input, schedule_to_close=self._limit)
        return await self._client.start_workflow(
            RunOperation.run, plan, id=id, task_queue=CALLER_QUEUE, rpc_timeout=timedelta(minutes=2)
        )

    @staticmethod
    def _operation_of(told: Any) -> Operation:
        return Operation(
            scheduled=told.start_time.timestamp(),
            closed=told.close_time.timestamp() if told.status != WorkflowExecutionStatus.RUNNING else None,
            succeeded=told.status == WorkflowExecutionStatus.COMPLETED,
        )


def calls_of(version: str) -> type[Calls]:
    """How a caller's cluster of this version calls. Its worker has to run where that is by workflows."""
    return Calls if version == NEWEST else WorkflowCalls


@dataclass(frozen=True)
class RawAnswer:
    """What came back for one raw request. Status 0: no complete answer."""

    sent: float
    took: float
    status: int
    failure: str
    """`nexus-gateway-failure`: reason and rule of a refusal by the gateway; empty otherwise."""
    body: str


async def raw_start(url: str, operation: str, input: Any, **headers: str) -> RawAnswer:
    """Starts an operation at a target URL of an endpoint (`…/services`) over a connection of its own."""
    sent = time.time()

    def answer(status: int, failure: str, body: str) -> RawAnswer:
        return RawAnswer(sent, time.time() - sent, status, failure, body)

    parts = urlsplit(f"{url}/{SERVICE}/{operation}")
    content = json.dumps(input).encode()
    lines = {"Host": parts.netloc, "Content-Length": str(len(content)), "Connection": "close"}
    head = f"POST {parts.path} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in (lines | start_headers(**headers)).items()
    )
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(head.encode() + b"\r\n" + content)
            got = await asyncio.wait_for(reader.read(-1), 60)
        finally:
            writer.close()
        first, *rest = got.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        told = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        body = got.partition(b"\r\n\r\n")[2].decode(errors="replace")
        return answer(int(first.split(" ")[1]), told.get("nexus-gateway-failure", ""), body)
    except (OSError, asyncio.TimeoutError, IndexError, ValueError) as error:
        return answer(0, "", repr(error))


class RawCalls(Steady):
    """Raw starts of one operation, behind which no caller's breaker stands."""

    def __init__(self, url: str, operation: str = "echo", input: Any = "x", rate: float = 20) -> None:
        super().__init__(rate)
        self._url, self._operation, self._input = url, operation, input
        self.answers: list[RawAnswer] = []

    async def one(self) -> None:
        self.answers.append(await raw_start(self._url, self._operation, self._input))

    def count(self, *statuses: int) -> int:
        return sum(1 for answer in self.answers if answer.status in statuses)

    def others(self, *statuses: int) -> list[RawAnswer]:
        """The answers with any other status; a few of them, for a message."""
        return [answer for answer in self.answers if answer.status not in statuses][:5]
