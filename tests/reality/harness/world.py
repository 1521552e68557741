"""Everything the tests share: a cluster per role and version, workers on each, and one gateway in between.

The caller's cluster runs the newest server; so does one handler's cluster. Two older clusters play both roles.
A `Lane` joins a caller's cluster with a handler's cluster twice: through the gateway and directly.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client

from .caller import Outcome, Plan, call, caller_worker
from .cluster import Cluster, Endpoint
from .gateway import Gateway
from .service import Journal, handler_worker

HANDLER_QUEUE = "handlers"

LANES = {
    "1.32 calls 1.32": ("caller", "handler"),
    "1.30 calls 1.32": ("old30", "handler"),
    "1.29 calls 1.32": ("old29", "handler"),
    "1.32 calls 1.30": ("caller", "old30"),
    "1.32 calls 1.29": ("caller", "old29"),
}
"""Name → which cluster calls which."""

_numbers = itertools.count(1)


@dataclass(repr=False)
class Site:
    """One cluster with a client and the journal of its handlers."""

    cluster: Cluster
    client: Client
    journal: Journal


@dataclass(frozen=True)
class Pair:
    """The same endpoint of a handler's cluster, as a caller's cluster knows it: through the gateway and without."""

    via: str
    direct: str
    target: Endpoint


@dataclass(repr=False)
class Lane:
    """A caller's cluster, a handler's cluster and an endpoint between them."""

    name: str
    caller: Site
    handler: Site
    gateway: Gateway
    pair: Pair

    async def new_pair(self, task_queue: str = HANDLER_QUEUE, gateway: Gateway | None = None) -> Pair:
        """An endpoint of its own, for tests whose failures would trip the caller's breaker for others."""
        return await make_pair(self.caller, self.handler, gateway or self.gateway, task_queue)

    async def call(self, operation: str, input: Any = None, pair: Pair | None = None, **plan: Any) -> Outcome:
        """Runs one operation through the gateway."""
        return await call(self.caller.client, Plan((pair or self.pair).via, operation, input, **plan))

    async def compare(self, operation: str, input: Any = None, pair: Pair | None = None, **plan: Any) -> Outcome:
        """Runs one operation through the gateway and, beside it, without; both must end in the same way."""
        pair = pair or self.pair
        via, direct = await asyncio.gather(
            call(self.caller.client, Plan(pair.via, operation, input, **plan)),
            call(self.caller.client, Plan(pair.direct, operation, input, **plan)),
        )
        assert via == direct, f"through the gateway: {via}\ndirectly: {direct}"
        return via


async def make_pair(caller: Site, handler: Site, gateway: Gateway, task_queue: str = HANDLER_QUEUE) -> Pair:
    """Registers an endpoint with the handler's cluster, and both ways to it with the caller's."""
    number = next(_numbers)
    target = await handler.cluster.create_worker_endpoint(f"{handler.cluster.name}-{number}", task_queue)
    via, direct = f"via-{target.name}", f"direct-{target.name}"
    await asyncio.gather(
        caller.cluster.create_external_endpoint(via, gateway.target_url(target.name)),
        caller.cluster.create_external_endpoint(direct, handler.cluster.direct_url(target)),
    )
    return Pair(via, direct, target)


VERSIONS = {"caller": "1.32.0", "handler": "1.32.0", "old30": "1.30.2", "old29": "1.29.1"}
"""Cluster → version of its server."""


class World:
    """What a test session runs in."""

    lanes_of: Mapping[str, tuple[str, str]] = LANES

    def __init__(self, versions: Mapping[str, str] = VERSIONS) -> None:
        self.sites: dict[str, Site] = {}
        self.lanes: dict[str, Lane] = {}
        self._versions = versions
        self._exit = AsyncExitStack()

    async def start(self) -> World:
        clusters = {name: self._cluster(name, version) for name, version in self._versions.items()}
        for cluster in clusters.values():
            self._exit.callback(cluster.stop)
            cluster.launch()
        for name, cluster in clusters.items():
            await asyncio.to_thread(cluster.await_ready)
            self.sites[name] = Site(cluster, await Client.connect(cluster.address), Journal())
            await self._settle(self.sites[name])
        self.gateway = self._gateway()
        self._exit.callback(self.gateway.stop)
        await asyncio.to_thread(self.gateway.start)
        for name, (caller, handler) in self.lanes_of.items():
            if {caller, handler} <= self.sites.keys():
                pair = await make_pair(self.sites[caller], self.sites[handler], self.gateway)
                self.lanes[name] = Lane(name, self.sites[caller], self.sites[handler], self.gateway, pair)
        return self

    def _cluster(self, name: str, version: str) -> Cluster:
        return Cluster(name, version)

    async def _settle(self, site: Site) -> None:
        """Workers for the roles that a cluster plays."""
        if site.cluster.name != "caller":
            await self._exit.enter_async_context(handler_worker(site.client, HANDLER_QUEUE, site.journal))
        if site.cluster.name != "handler":
            await self._exit.enter_async_context(caller_worker(site.client))

    def _gateway(self) -> Gateway:
        return Gateway([self.sites[name].cluster.url for name in ("handler", "old30", "old29")])

    @property
    def main(self) -> Lane:
        """The lane between the two newest servers."""
        return self.lanes["1.32 calls 1.32"]

    async def stop(self) -> None:
        await self._exit.aclose()
