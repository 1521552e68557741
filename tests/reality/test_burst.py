"""A burst over a rate limit waits its turn, and the caller does not notice; refused at once, its own breaker blacks the
endpoint out. `make burst` is the long form."""

from __future__ import annotations

from experiments.burst import REFUSED, SHAPED, run
from harness.world import World


async def test_a_burst_waits_its_turn_and_trips_no_breaker(world: World) -> None:
    caller, handler = world.sites["caller"], world.sites["handler"]
    columns = await run(caller, handler, limit=20, times=10, lasts=1, patience=15)
    shaped, refused = columns[SHAPED], columns[REFUSED]
    assert (shaped.refusals, shaped.attempts.failed, shaped.attempts.blocked) == (0, 0, 0), columns
    assert shaped.served == len(shaped.operations)
    # What it is measured against.
    assert refused.refusals > 0, columns
    assert refused.attempts.blocked > 0, columns
