"""A handler's cluster is down when the gateway starts, or is lost later, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest_asyncio
from temporalio.client import Client

from harness.caller import Plan, begin, pending
from harness.cluster import Cluster, Endpoint
from harness.gateway import Gateway
from harness.http import Answer
from harness.processes import scratch_folder
from harness.service import Journal, handler_worker
from harness.traffic import start
from harness.world import HANDLER_QUEUE, Lane

NAME = "lasting"


class Shop:
    """A cluster that can be stopped and started again: it keeps its state in a file, and its ports."""

    def __init__(self) -> None:
        self.cluster = Cluster("shop", database=scratch_folder("shop") / "temporal.db")
        self.endpoint: Endpoint
        self._worker = AsyncExitStack()

    async def up(self) -> None:
        await asyncio.to_thread(self.cluster.start)
        client = await Client.connect(self.cluster.address)
        await self._worker.enter_async_context(handler_worker(client, HANDLER_QUEUE, Journal()))

    async def down(self) -> None:
        await self._worker.aclose()
        await asyncio.to_thread(self.cluster.stop)


@pytest_asyncio.fixture(scope="module")
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    await shop.up()
    try:
        shop.endpoint = await shop.cluster.create_worker_endpoint(NAME, HANDLER_QUEUE)
        yield shop
    finally:
        await shop.down()


async def ask(gateway: Gateway, name: str = NAME) -> Answer:
    return await asyncio.to_thread(start, gateway.target_url(name), "queue")


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.headers.get("nexus-gateway-failure", "")


async def served_again(gateway: Gateway) -> None:
    """Returns once the endpoint answers. Until then every answer must be one that a caller tries again."""
    while (answer := await ask(gateway)).status != 200:
        assert answer.headers["nexus-request-retryable"] == "true", answer
        await asyncio.sleep(0.1)


async def test_started_without_its_cluster_it_serves_from_the_copy_on_disk(
    shop: Shop, gateways: Callable[..., Gateway], tmp_path: Path
) -> None:
    first = gateways([shop.cluster.url], state=tmp_path).start()
    assert told(await ask(first)) == (200, "")
    assert await asyncio.to_thread(first.stop) == 0
    await shop.down()
    try:
        second = gateways([shop.cluster.url], state=tmp_path).start()  # ready, from the copy
        assert told(await ask(second)) == (503, "upstream_unreachable"), "the endpoint is known, its cluster is away"
        assert second.metrics().sum("nexus_gateway_registry_endpoints") >= 1
    finally:
        await shop.up()
    await served_again(second)


async def test_started_without_its_cluster_and_without_a_copy_it_waits_for_the_cluster(
    shop: Shop, gateways: Callable[..., Gateway]
) -> None:
    await shop.down()
    try:
        gateway = gateways([shop.cluster.url]).start(ready=False)
        assert told(await ask(gateway)) == (503, "registry_unavailable"), "not refused: it may well exist"
        assert not gateway.ready()
        while gateway.metrics().sum("nexus_gateway_registry_errors_total") < 1:
            await asyncio.sleep(0.05)
    finally:
        await shop.up()
    while not gateway.ready():
        await asyncio.sleep(0.05)
    assert told(await ask(gateway)) == (200, "")


async def test_a_cluster_that_is_lost_later_stays_in_the_table_until_it_is_back(
    shop: Shop, newest: Lane, gateways: Callable[..., Gateway]
) -> None:
    """An operation that a caller starts meanwhile ends well."""
    gateway = gateways([shop.cluster.url]).start()
    assert told(await ask(gateway)) == (200, "")
    await newest.caller.cluster.create_external_endpoint(NAME, gateway.target_url(NAME))
    await shop.down()
    try:
        assert told(await ask(gateway)) == (503, "upstream_unreachable")
        client = newest.caller.client
        operation = await begin(client, Plan(NAME, "echo", "patience"))
        while not (waiting := await pending(client, operation)) or not waiting[0].HasField("last_attempt_failure"):
            await asyncio.sleep(0.05)
        assert waiting[0].last_attempt_failure.nexus_handler_failure_info.type == "UNAVAILABLE"
        while gateway.metrics().sum("nexus_gateway_registry_errors_total") < 1:
            await asyncio.sleep(0.05)
        assert gateway.ready(), "the last good table still serves"
        assert NAME in gateway.get("/endpoints").body.decode()
    finally:
        await shop.up()
    await served_again(gateway)
    assert (await operation.result()).result == "patience"


async def test_a_name_that_nobody_knows_is_not_refused_for_good_while_a_cluster_is_away(
    shop: Shop, gateways: Callable[..., Gateway]
) -> None:
    """It may have been created since: only a cluster that answers can say that it does not exist."""
    gateway = gateways([shop.cluster.url]).start()
    assert told(await ask(gateway, "unheard-of")) == (404, "unknown_endpoint")
    await shop.down()
    try:
        assert told(await ask(gateway, "unheard-of-too")) == (503, "registry_unavailable")
    finally:
        await shop.up()
