"""Hostile clients beside a well-behaved one: none of its requests fails, and what they took is given back. `make abuse`
is the long form, with latencies and the gateway's memory."""

from __future__ import annotations

import pytest

from experiments.abuse import Abuse, Found, names

SIZES = {"idle": 1_000, "slow-heads": 100, "slow-bodies": 100, "slow-reads": 50}
MEMORY = 256 << 20
"""Bytes by which the gateway may grow under any of these."""


async def attacked(name: str, http2: bool = False) -> Found:
    async with Abuse(http2=http2, rate=20) as abuse:
        return await abuse.attack(name, lasts=2, size=SIZES.get(name, 0))


@pytest.mark.parametrize("name", names(http2=False))
async def test_a_good_client_gets_all_its_answers_beside(name: str) -> None:
    found = await attacked(name)
    told = f"{found.rows()}"
    assert found.abused and found.failures() == [], told
    assert found.attackers.get("connections", 0) > 0, told
    assert found.most - found.before < MEMORY, told
    # Four senders of the client keep their connection, and one has a new one now and then.
    assert found.left <= 6, told
