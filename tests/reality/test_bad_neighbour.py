"""One operation of an endpoint always fails: the gateway keeps it from the healthy one beside it. `make bad-neighbour`
is the long form, which also shows what the caller's own breaker does."""

from __future__ import annotations

from collections import Counter

from experiments.bad_neighbour import FAILING, HEALTHY, run
from experiments.setting import PARKED
from harness.world import World


async def test_the_breaker_of_a_failing_operation_leaves_the_healthy_one_alone(world: World) -> None:
    result = await run(world.sites["caller"], world.sites["handler"], rate=10, lasts=12, patience=1)
    raw = result.raw
    assert Counter((answer.status, answer.failure) for answer in raw.healthy) == {(200, ""): len(raw.healthy)}
    assert raw.states[HEALTHY] <= {0}, raw.states
    assert raw.states[FAILING] - {0}, raw.states
    refused = [answer for answer in raw.failing if answer.failure]
    assert {answer.failure for answer in refused} == {'breaker_open; rule="policies[0].breaker"'}
    # Most of the failing calls are not sent any more.
    assert len(refused) > len(raw.failing) / 2, Counter((answer.status, answer.failure) for answer in raw.failing)


async def test_with_parking_the_caller_s_own_breaker_leaves_the_healthy_operation_alone_too(world: World) -> None:
    ways = [PARKED]
    result = await run(world.sites["caller"], world.sites["handler"], rate=10, lasts=10, patience=10, ways=ways)
    healthy = result.callers[PARKED]
    told = f"{healthy.attempts}, {result.gateways[PARKED]}"
    assert (healthy.attempts.failed, healthy.attempts.blocked) == (0, 0), told
    assert all(operation.succeeded for operation in healthy.healthy), told
