"""A handler's cluster is unreachable for seconds at a time: its callers notice when they call it directly, not when
they call it through the gateway. One that parks hides even outages that are longer than a caller waits.
`make outage` is the long form."""

from __future__ import annotations

from experiments.outage import PARKING, draw, run
from experiments.setting import PARKED, WITH, WITHOUT
from harness.world import World

SEED = 3


async def test_callers_do_not_notice_outages_of_seconds(world: World) -> None:
    caller, handler = world.sites["caller"], world.sites["handler"]
    outages = draw(SEED, count=2, lasts=4, gaps=(3, 6))
    columns = await run(caller, handler, outages, rate=20, calm=4, patience=8)
    told = f"seed {SEED}, {outages}, {columns[WITH].attempts}, {columns[WITHOUT].attempts}"
    via, direct = columns[WITH], columns[WITHOUT]
    assert via.attempts.blocked == 0, told
    assert via.attempts.success >= 0.99, told
    assert via.succeeded == len(via.operations), told
    assert None not in via.recoveries, told
    # What it is measured against: without the gateway the same outages are noticed.
    assert direct.attempts.blocked > 0, told
    assert direct.attempts.failed > via.attempts.failed, told


async def test_with_parking_callers_do_not_notice_an_outage_longer_than_they_wait(world: World) -> None:
    caller, handler = world.sites["caller"], world.sites["handler"]
    outages = draw(SEED, count=1, lasts=15, gaps=(2, 3))
    columns = await run(caller, handler, outages, rate=10, calm=4, patience=30, ways={PARKED: PARKING})
    parked = columns[PARKED]
    told = f"seed {SEED}, {outages}, {parked.attempts}, {parked.extra}"
    assert (parked.attempts.failed, parked.attempts.blocked) == (0, 0), told
    assert parked.succeeded == len(parked.operations), told
    assert None not in parked.drains, told
