"""Two real clusters whose only way to each other leads through two gateways and mutual TLS between them:
caller's cluster → External endpoint → gateway on the same machine → mutual TLS → gateway of the other side → cluster."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from experiments.setting import configuration
from harness.caller import Plan, call
from harness.certificates import Authority, Mounted
from harness.gateway import Gateway
from harness.service import Job
from harness.world import HANDLER_QUEUE, Lane

Gateways = Callable[..., Gateway]


class Between:
    """A near gateway, which the caller's cluster knows, and a far one, which the handler's cluster trusts."""

    def __init__(self, lane: Lane, gateways: Gateways) -> None:
        self.lane = lane
        self.authority = Authority()
        near, far = self.authority.issue("near"), self.authority.issue("far")
        self.near_files = Mounted(ca_crt=self.authority.ca, tls_crt=near.certificate, tls_key=near.key)
        self.far_files = Mounted(ca_crt=self.authority.ca, tls_crt=far.certificate, tls_key=far.key)
        self._gateways = gateways
        self.endpoint = f"across-{uuid.uuid4().hex[:8]}"

    async def start(self) -> Between:
        await self.lane.handler.cluster.create_worker_endpoint(self.endpoint, HANDLER_QUEUE)
        files = self.far_files
        far = configuration(f"""
listen:
  - address: 127.0.0.1:0
    tls:
      certificate: {files.path("tls_crt")}
      key: {files.path("tls_key")}
      clients: {{ ca: {files.path("ca_crt")} }}
clusters:
  handler: {{ url: "{self.lane.handler.cluster.url}" }}
""")
        self.far = self._gateways(config=far, listen="")
        await asyncio.to_thread(self.far.start)
        files = self.near_files
        url = f"https://localhost:{self.far.address.rpartition(':')[2]}/nexus/endpoints/{self.endpoint}/services"
        near = configuration(f"""
endpoints:
  {self.endpoint}:
    external:
      url: {url}
      tls:
        ca: {files.path("ca_crt")}
        certificate: {files.path("tls_crt")}
        key: {files.path("tls_key")}
""")
        self.near = self._gateways(config=near)
        await asyncio.to_thread(self.near.start)
        await self.lane.caller.cluster.create_external_endpoint(self.endpoint, self.near.target_url(self.endpoint))
        return self

    async def run(self, operation: str, input: object = None, **plan: object) -> object:
        return await call(self.lane.caller.client, Plan(self.endpoint, operation, input, **plan))


async def test_operations_of_every_kind_cross_two_gateways_and_mutual_tls(newest: Lane, gateways: Gateways) -> None:
    between = await Between(newest, gateways).start()
    echoed, done, failed, canceled = await asyncio.gather(
        between.run("echo", "x"),
        between.run("job", Job("x")),
        between.run("operation_error", "failed"),
        between.run("job", Job("x", then="wait"), cancel="wait_completed"),
    )
    assert (echoed.result, done.result, done.asynchronous) == ("x", "done: x", True)
    assert failed.cause("ApplicationError")["message"] == "ended as failed"
    assert "CancelledError" in canceled.kinds
    # 4 starts and a cancel went all the way.
    for gateway in (between.near, between.far):
        metrics = await asyncio.to_thread(gateway.metrics)
        assert metrics.sum("nexus_gateway_requests_total", endpoint=between.endpoint) == 5, metrics.text


async def test_both_gateways_change_their_certificates_while_operations_cross(newest: Lane, gateways: Gateways) -> None:
    between = await Between(newest, gateways).start()

    async def go_on(outcomes: list[object]) -> None:
        while True:
            outcomes.append(await between.run("echo", "x"))

    outcomes: list[object] = []
    callers = [asyncio.create_task(go_on(outcomes)) for _ in range(4)]
    try:
        for name, files, gateway in (
            ("near", between.near_files, between.near),
            ("far", between.far_files, between.far),
        ):
            before = (await asyncio.to_thread(gateway.metrics)).sum(RELOADS, result="applied")
            files.replace(**files.pair(between.authority.issue(name)))
            while (await asyncio.to_thread(gateway.metrics)).sum(RELOADS, result="applied") == before:
                await asyncio.sleep(0.05)
            seen = len(outcomes)
            while len(outcomes) < seen + 20:
                await asyncio.sleep(0.05)
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome.result != "x"] == []
    for gateway in (between.near, between.far):
        metrics = await asyncio.to_thread(gateway.metrics)
        assert metrics.sum("nexus_gateway_failures_total") == 0, metrics.text


RELOADS = "nexus_gateway_config_reloads_total"
