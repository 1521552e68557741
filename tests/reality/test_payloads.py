"""Payloads come back from the handler exactly as they were sent, whatever they hold."""

from __future__ import annotations

import asyncio

import pytest

from harness.caller import PAYLOADS, echo_payload
from harness.world import Lane


@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_payload_crosses_unchanged(lane: Lane, name: str) -> None:
    client = lane.caller.client
    via, direct = await asyncio.gather(
        echo_payload(client, lane.pair.via, name), echo_payload(client, lane.pair.direct, name)
    )
    assert via == direct
    assert via.same, via
