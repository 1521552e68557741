"""Operations that the command line starts without any caller workflow (servers from 1.32)."""

from __future__ import annotations

import asyncio

from harness.standalone import Standalone
from harness.world import Lane


async def test_a_synchronous_operation_from_the_command_line(newest: Lane) -> None:
    operation = Standalone(newest.caller.cluster, newest.pair.via, "echo", {"order": 7})
    await operation.start()
    assert '{"order":7}' in (await operation.result()).replace(" ", "")


async def test_an_asynchronous_operation_from_the_command_line_completes_by_callback(newest: Lane) -> None:
    operation = Standalone(newest.caller.cluster, newest.pair.via, "job", {"text": "seven", "then": "complete"})
    await operation.start()
    assert "done: seven" in await operation.result()


async def test_a_failed_operation_from_the_command_line_shows_its_failure(newest: Lane) -> None:
    operation = Standalone(newest.caller.cluster, newest.pair.via, "operation_error", "failed")
    await operation.start()
    assert "ended as failed" in await operation.result()


async def test_a_refused_operation_from_the_command_line_shows_the_type_of_the_error(newest: Lane) -> None:
    trouble = {"type": "UNAUTHORIZED", "tries": 99, "retryable": None}
    operation = Standalone(newest.caller.cluster, newest.pair.via, "handler_error", trouble)
    await operation.start()
    assert "UNAUTHORIZED" in await operation.result()


async def test_an_operation_from_the_command_line_can_be_canceled(newest: Lane) -> None:
    operation = Standalone(newest.caller.cluster, newest.pair.via, "job", {"text": "never", "then": "wait"})
    await operation.start()
    await operation.run("cancel")
    assert "cancel" in (await operation.result()).lower()
    while "CANCELED" not in (state := await operation.state()).upper():
        assert "RUNNING" in state.upper()
        await asyncio.sleep(0.1)
