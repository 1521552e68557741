"""`nexus-gateway run --cluster URL` with no file, in front of one single cluster."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable

from harness.caller import Plan, call
from harness.gateway import Gateway, binary
from harness.service import Job, Journal, handler_worker
from harness.world import World, make_pair

QUEUE = "single"


async def test_operations_of_a_cluster_to_itself_cross_the_gateway(
    world: World, gateways: Callable[..., Gateway]
) -> None:
    site = world.sites["caller"]
    gateway = gateways([site.cluster.url]).start()
    pair = await make_pair(site, site, gateway, QUEUE)
    async with handler_worker(site.client, QUEUE, Journal()):
        for endpoint in (pair.via, pair.target.name):
            echoed, done, failed, canceled = await asyncio.gather(
                call(site.client, Plan(endpoint, "echo", "x")),
                call(site.client, Plan(endpoint, "job", Job("x"))),
                call(site.client, Plan(endpoint, "operation_error", "failed")),
                call(site.client, Plan(endpoint, "job", Job("x", then="wait"), cancel="wait_completed")),
            )
            assert (echoed.result, done.result) == ("x", "done: x")
            assert failed.cause("ApplicationError")["message"] == "ended as failed"
            assert "CancelledError" in canceled.kinds
    assert gateway.metrics().sum("nexus_gateway_requests_total", endpoint=pair.target.name) == 5  # 4 starts, 1 cancel


async def test_resolve_tells_where_an_endpoint_of_the_cluster_goes(world: World) -> None:
    site = world.sites["handler"]
    target = world.main.pair.target

    def resolve(name: str) -> subprocess.CompletedProcess[str]:
        command = [str(binary()), "resolve", name, "--cluster", site.cluster.url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    found = await asyncio.to_thread(resolve, target.name)
    assert found.returncode == 0, found
    assert f"127.0.0.1:{site.cluster.http_port}" in found.stdout and target.id in found.stdout
    absent = await asyncio.to_thread(resolve, "no-such-endpoint")
    assert absent.returncode != 0, absent
    assert "no-such-endpoint" in absent.stdout + absent.stderr


async def test_the_admin_port_lists_the_endpoints_of_every_cluster(world: World) -> None:
    text = (await asyncio.to_thread(world.main.gateway.get, "/endpoints")).body.decode()
    for lane in world.lanes.values():
        assert lane.pair.target.name in text
