"""Hostile clients beside a well-behaved one: none of its requests fails, and what they took is given back. `make abuse`
is the long form, with latencies and the gateway's memory."""

from __future__ import annotations

import pytest

from experiments.abuse import Abuse, Found, names
from experiments.attacks import ATTACKS2

SIZES = {"idle": 1_000, "slow-heads": 100, "slow-bodies": 100, "slow-reads": 50}
MEMORY = 256 << 20
"""Bytes by which the gateway may grow under any of these."""


CUT = ("rapid-reset", "made-reset", "continuations", "header-bombs", "huge-heads")
"""What a connection does not survive."""
FLOOD = 5_000
"""Frames a second: enough to be refused for it, little enough for a machine that has other tests to run."""


async def attacked(name: str) -> Found:
    async with Abuse(http2=True, rate=20) as abuse:
        return await abuse.attack(name, lasts=2, size=SIZES.get(name, 0), rate=FLOOD if name in ATTACKS2 else 0)


@pytest.mark.parametrize("name", names(http2=True))
async def test_a_good_client_gets_all_its_answers_beside(name: str) -> None:
    found = await attacked(name)
    told = f"{found.rows()}"
    assert found.abused and found.failures() == [], told
    assert found.attackers.get("connections", 0) > 0, told
    assert found.most - found.before < MEMORY, told
    # Four senders of the client keep their connection, and one has a new one now and then.
    assert found.left <= 6, told
    if name in CUT:
        assert found.attackers.get("connections cut", 0) > 0, told
