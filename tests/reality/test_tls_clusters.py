"""Two real clusters with two gateways and mutual TLS between them: caller's cluster → External endpoint → gateway on the
same machine → mutual TLS → gateway of the other side → handler's cluster, and completions the same way home."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from harness.caller import Outcome, Plan, call
from harness.certificates import Authority, Mounted
from harness.gateway import Gateway, configuration
from harness.processes import free_port
from harness.service import Job
from harness.world import HANDLER_QUEUE, Lane

Gateways = Callable[..., Gateway]

RELOADS = "nexus_gateway_config_reloads_total"


def shown(files: Mounted) -> str:
    """How a gateway with these files meets another one."""
    return f"{{ ca: {files.path('ca_crt')}, certificate: {files.path('tls_crt')}, key: {files.path('tls_key')} }}"


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
        # Each has a port for its own cluster, and one with TLS for the other gateway.
        near, near_tls, far, far_tls = (free_port() for _ in range(4))
        self.far = await self._gateway(
            self.far_files,
            far,
            far_tls,
            f"""
clusters:
  handler: {{ url: "{self.lane.handler.cluster.url}" }}
callbacks:
  public_url: http://127.0.0.1:{far}
  allow:
    - url: https://localhost:{near_tls}
      private: true
      tls: {shown(self.far_files)}
""",
        )
        self.near = await self._gateway(
            self.near_files,
            near,
            near_tls,
            f"""
endpoints:
  {self.endpoint}:
    external:
      url: https://localhost:{far_tls}/nexus/endpoints/{self.endpoint}/services
      tls: {shown(self.near_files)}
callbacks:
  public_url: https://localhost:{near_tls}
  allow: [{{ url: "http://127.0.0.1:{self.lane.caller.cluster.http_port}", private: true }}]
""",
        )
        await self.lane.caller.cluster.create_external_endpoint(self.endpoint, self.near.target_url(self.endpoint))
        return self

    async def _gateway(self, files: Mounted, port: int, tls_port: int, more: str) -> Gateway:
        listeners = f"""
listen:
  - address: 127.0.0.1:{port}
  - address: 127.0.0.1:{tls_port}
    tls:
      certificate: {files.path("tls_crt")}
      key: {files.path("tls_key")}
      clients: {{ ca: {files.path("ca_crt")} }}
"""
        gateway = self._gateways(config=configuration(listeners + more), listen="")
        await asyncio.to_thread(gateway.start)
        gateway.address = f"127.0.0.1:{port}"
        return gateway

    async def run(self, operation: str, input: object = None, **plan: Any) -> Outcome:
        return await call(self.lane.caller.client, Plan(self.endpoint, operation, input, **plan))


async def test_operations_of_every_kind_cross_two_gateways_and_mutual_tls(newest: Lane, gateways: Gateways) -> None:
    between = await Between(newest, gateways).start()
    echoed, done, failed, canceled = await asyncio.gather(
        between.run("echo", "planted-x"),
        between.run("job", Job("planted-x")),
        between.run("operation_error", "failed"),
        between.run("job", Job("planted-x", then="wait"), cancel="wait_completed"),
    )
    assert (echoed.result, done.result, done.asynchronous) == ("planted-x", "done: planted-x", True)
    assert failed.cause("ApplicationError")["message"] == "ended as failed"
    assert "CancelledError" in canceled.kinds
    # 4 starts and a cancel went all the way, and 2 completions came back.
    for gateway in (between.near, between.far):
        metrics = await asyncio.to_thread(gateway.metrics)
        for method, count in (("start", 4), ("cancel", 1), ("complete", 2)):
            found = metrics.sum("nexus_gateway_requests_total", endpoint=between.endpoint, method=method)
            assert found == count, f"{method}: {metrics.text}"


async def test_both_gateways_change_their_certificates_while_operations_cross(newest: Lane, gateways: Gateways) -> None:
    between = await Between(newest, gateways).start()

    async def go_on(outcomes: list[Outcome]) -> None:
        while True:
            outcomes.append(await between.run("echo", "planted-x"))

    outcomes: list[Outcome] = []
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
    assert [outcome for outcome in outcomes if outcome.result != "planted-x"] == []
    for gateway in (between.near, between.far):
        metrics = await asyncio.to_thread(gateway.metrics)
        assert metrics.sum("nexus_gateway_failures_total") == 0, metrics.text
