"""Handlers that are slow, and handlers that are not there yet.

A caller's cluster gives each attempt 10 s, so each test runs all pairs of versions side by side.
"""

from __future__ import annotations

import asyncio
from typing import Any

from harness.caller import Outcome, Plan, begin, pending
from harness.service import Journal, handler_worker
from harness.world import Lane, World


async def test_a_handler_that_outlives_the_first_attempt_is_asked_again(world: World) -> None:
    async def one(lane: Lane) -> Outcome:
        return await lane.compare("slow_at_first", pair=await lane.new_pair())

    outcomes = await asyncio.gather(*[one(lane) for lane in world.lanes.values()])
    assert {name: outcome.result for name, outcome in zip(world.lanes, outcomes, strict=True)} == dict.fromkeys(
        world.lanes, 2
    )


async def test_an_operation_waits_for_a_worker_that_comes_later(world: World) -> None:
    """Until then the caller is shown what it is shown without a gateway."""

    async def one(lane: Lane) -> tuple[list[Any], list[Outcome]]:
        queue = f"later-{lane.pair.via}"
        pair = await lane.new_pair(queue)
        client = lane.caller.client
        handles = [await begin(client, Plan(endpoint, "echo", "at last")) for endpoint in (pair.via, pair.direct)]
        shown: list[Any] = []
        for handle in handles:
            while not (operations := await pending(client, handle)) or operations[0].attempt < 1:
                await asyncio.sleep(0.1)
            while not operations[0].HasField("last_attempt_failure"):
                await asyncio.sleep(0.1)
                operations = await pending(client, handle)
            failure = operations[0].last_attempt_failure
            shown.append((failure.WhichOneof("failure_info"), failure.nexus_handler_failure_info.type))
        async with handler_worker(lane.handler.client, queue, Journal()):
            return shown, list(await asyncio.gather(*[handle.result() for handle in handles]))

    ended = await asyncio.gather(*[one(lane) for lane in world.lanes.values()])
    for name, (shown, outcomes) in zip(world.lanes, ended, strict=True):
        # Server 1.29 answers in the very moment in which the caller gives up: which of the two is seen is chance.
        assert shown[0] == shown[1] or name.endswith("calls 1.29"), name
        assert outcomes == [Outcome(result="at last")] * 2, name
