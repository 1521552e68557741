"""Three gateway processes keep one limit together, by a real Redis server, and go on when it is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from experiments.global_limit import SharedLimit
from harness.calls import RawAnswer

RATE, BURST = 100, 10
"""Requests a second that all gateways let through together, and requests at once beyond that."""


def told(answers: list[RawAnswer]) -> Counter[tuple[int, str]]:
    """The answers by status and by what the gateway said of them."""
    return Counter((answer.status, answer.failure) for answer in answers)


async def test_three_gateways_together_let_through_what_one_limit_allows() -> None:
    async with SharedLimit(RATE, max_wait="0s") as shared:
        # Unevenly, so that a share of a third for each would let too few through.
        answers = await shared.load([2 * RATE, RATE, RATE / 2], lasts=10)
        passed, took = shared.let_through()
    allowed = BURST + RATE * took
    assert abs(passed - allowed) <= 0.05 * allowed, f"{passed} in {took:.2f} s, {told(answers)}"
    assert sum(1 for answer in answers if answer.status == 200) == passed
    assert {answer.status for answer in answers} == {200, 429}, told(answers)
    refused = {answer.failure for answer in answers if answer.status == 429}
    assert refused == {'rate_limited; rule="policies[0].rate_limit"'}


async def outage(shared: SharedLimit, way: str) -> None:
    """Takes the Redis away for a while and brings it back, empty where it was stopped."""
    redis = shared.redis
    await asyncio.to_thread(redis.stop if way == "stopped" else redis.suspend)
    await asyncio.sleep(3)
    await asyncio.to_thread(redis.start if way == "stopped" else redis.resume)


@pytest.mark.parametrize("way", ["stopped", "hung"])
async def test_no_request_is_lost_while_redis_is_away_and_the_limit_is_one_again_after_it_is_back(way: str) -> None:
    async with SharedLimit(RATE, max_wait="4s") as shared:
        calls = shared.callers([RATE / 5] * 3)
        async with AsyncExitStack() as traffic:
            for one in calls:
                await traffic.enter_async_context(one)
            await asyncio.sleep(1.5)
            await outage(shared, way)
            await asyncio.sleep(1.5)
        answers = [answer for one in calls for answer in one.answers]
        assert told(answers) == {(200, ""): len(answers)}, [answer for answer in answers if answer.status != 200][:3]
        assert len(shared.handler.came) == len(answers), "sent exactly once"
        # By itself each gateway would let the whole limit through.
        while True:
            before = len(shared.handler.came)
            await shared.load([RATE * 0.9] * 3, lasts=2)
            passed, took = shared.let_through(before)
            if passed <= 1.25 * (BURST + RATE * took):
                break
