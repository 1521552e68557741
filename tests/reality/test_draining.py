"""The gateway is stopped, and its configuration changed, while operations are on their way."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.caller import Plan, begin
from harness.gateway import Gateway
from harness.http import Answer
from harness.traffic import Traffic, start
from harness.world import HANDLER_QUEUE, Lane, World


async def entered(lane: Lane, key: str) -> None:
    """Returns once a handler holds the operation of this name."""
    while not lane.handler.journal.of("start", key):
        await asyncio.sleep(0.02)


async def draining(
    newest: Lane, gateways: Callable[..., Gateway]
) -> tuple[Gateway, str, str, asyncio.Task[Answer]]:
    """A gateway that was told to stop while a handler holds an operation: it, its URL, the key, and the request."""
    gateway = gateways([newest.handler.cluster.url]).start()
    url, key = gateway.target_url(newest.pair.target.name), f"held-{uuid.uuid4()}"
    held = asyncio.create_task(asyncio.to_thread(start, url, "held", key))
    await entered(newest, key)
    gateway.terminate()
    while gateway.ready():
        await asyncio.sleep(0.02)
    return gateway, url, key, held


async def test_an_operation_in_flight_finishes_when_the_gateway_is_told_to_stop(
    newest: Lane, gateways: Callable[..., Gateway]
) -> None:
    gateway = gateways([newest.handler.cluster.url]).start()
    pair = await newest.new_pair(gateway=gateway)
    key = f"held-{uuid.uuid4()}"
    handle = await begin(newest.caller.client, Plan(pair.via, "held", key))
    await entered(newest, key)
    gateway.terminate()
    while gateway.ready():  # it says that it is on its way out, and still finishes what it has
        await asyncio.sleep(0.02)
    assert gateway.running()
    newest.handler.journal.gate(key).set()
    assert (await handle.result()).result == f"passed {key}"
    assert len(newest.handler.journal.of("start", key)) == 1, "the caller did not have to try again"
    assert await asyncio.to_thread(gateway.wait) == 0


async def test_while_it_drains_it_takes_no_new_work(newest: Lane, gateways: Callable[..., Gateway]) -> None:
    gateway, url, key, held = await draining(newest, gateways)
    with pytest.raises(ConnectionError):  # nobody listens any more
        await asyncio.to_thread(start, url, "queue")
    newest.handler.journal.gate(key).set()
    assert (await held).status == 200
    assert await asyncio.to_thread(gateway.wait) == 0


async def test_a_second_signal_ends_it_at_once(newest: Lane, gateways: Callable[..., Gateway]) -> None:
    gateway, url, key, held = await draining(newest, gateways)
    gateway.terminate()
    await asyncio.to_thread(gateway.wait)
    assert not newest.handler.journal.gate(key).is_set(), "the operation was still held"
    newest.handler.journal.gate(key).set()
    await asyncio.gather(held, return_exceptions=True)


async def test_an_idle_gateway_stops_with_status_0(newest: Lane, gateways: Callable[..., Gateway]) -> None:
    gateway = gateways([newest.handler.cluster.url]).start()
    assert await asyncio.to_thread(gateway.stop) == 0


def configuration(world: World, extra: str = "") -> str:
    return f"""
clusters:
  shop:
    url: {world.main.handler.cluster.url}
endpoints:
  defined:
    worker: {{ cluster: shop, namespace: default, task_queue: {HANDLER_QUEUE} }}
{extra}
"""


async def test_a_changed_configuration_takes_effect_while_traffic_runs(
    world: World, newest: Lane, gateways: Callable[..., Gateway], tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(configuration(world))
    gateway = gateways(config=file).start()

    async def reloads(result: str, count: int) -> None:
        while gateway.metrics().sum("nexus_gateway_config_reloads_total", result=result) < count:
            await asyncio.sleep(0.05)

    async with (
        Traffic(gateway.target_url("defined")) as defined,
        Traffic(gateway.target_url(newest.pair.target.name)) as discovered,
    ):
        await asyncio.gather(defined.enter("before"), discovered.enter("before"))
        added = f"  added: {{ worker: {{ cluster: shop, namespace: default, task_queue: {HANDLER_QUEUE} }} }}"
        file.write_text(configuration(world, added))
        await reloads("applied", 1)
        assert (await asyncio.to_thread(start, gateway.target_url("added"), "queue")).status == 200

        file.write_text(configuration(world, "  added: { no_such_key: 1 }"))
        await reloads("refused", 1)
        assert gateway.metrics().sum("nexus_gateway_config_last_reload_successful") == 0
        assert (await asyncio.to_thread(start, gateway.target_url("added"), "queue")).status == 200
        assert "no_such_key" in gateway.output()

        file.write_text(configuration(world))
        await reloads("applied", 2)
        assert gateway.metrics().sum("nexus_gateway_config_last_reload_successful") == 1
        gone = await asyncio.to_thread(start, gateway.target_url("added"), "queue")
        assert (gone.status, gone.headers["nexus-gateway-failure"]) == (404, "unknown_endpoint")
        await asyncio.gather(defined.enter("after"), discovered.enter("after"))
    assert defined.refused() == []
    assert discovered.refused() == []
    assert await asyncio.to_thread(gateway.stop) == 0
