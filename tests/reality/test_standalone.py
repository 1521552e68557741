"""Operations that the command line starts without any caller workflow (servers from 1.32)."""

from __future__ import annotations

import asyncio
import json
import uuid

from harness.world import Lane


class Standalone:
    """One operation, driven by `temporal nexus operation …` on the caller's cluster."""

    def __init__(self, lane: Lane, operation: str, input: object) -> None:
        self.id = f"standalone-{uuid.uuid4()}"
        self._cli = lane.caller.cluster.cli
        self._start = ["--endpoint", lane.pair.via, "--service", "RealityService", "--operation", operation]
        self._start += ["--input", json.dumps(input), "--schedule-to-close-timeout", "2m"]

    async def run(self, verb: str, *flags: str, fails: bool = False) -> str:
        return await self._cli("nexus", "operation", verb, "--operation-id", self.id, *flags, fails=fails)

    async def start(self) -> None:
        await self.run("start", *self._start)

    async def result(self) -> str:
        """What `result` prints, whether it succeeds or not."""
        return await self.run("result", fails=True)

    async def state(self) -> str:
        return str(json.loads(await self.run("describe", "--output", "json"))["status"])


async def test_a_synchronous_operation_from_the_command_line(newest: Lane) -> None:
    operation = Standalone(newest, "echo", {"order": 7})
    await operation.start()
    assert '{"order":7}' in (await operation.result()).replace(" ", "")


async def test_an_asynchronous_operation_from_the_command_line_completes_by_callback(newest: Lane) -> None:
    operation = Standalone(newest, "job", {"text": "seven", "then": "complete"})
    await operation.start()
    assert "done: seven" in await operation.result()


async def test_a_failed_operation_from_the_command_line_shows_its_failure(newest: Lane) -> None:
    operation = Standalone(newest, "operation_error", "failed")
    await operation.start()
    assert "ended as failed" in await operation.result()


async def test_a_refused_operation_from_the_command_line_shows_the_type_of_the_error(newest: Lane) -> None:
    operation = Standalone(newest, "handler_error", {"type": "UNAUTHORIZED", "tries": 99, "retryable": None})
    await operation.start()
    assert "UNAUTHORIZED" in await operation.result()


async def test_an_operation_from_the_command_line_can_be_canceled(newest: Lane) -> None:
    operation = Standalone(newest, "job", {"text": "never", "then": "wait"})
    await operation.start()
    await operation.run("cancel")
    assert "cancel" in (await operation.result()).lower()
    while "CANCELED" not in (state := await operation.state()).upper():
        assert "RUNNING" in state.upper()
        await asyncio.sleep(0.1)
