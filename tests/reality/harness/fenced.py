"""Clusters whose only way to each other is a gateway: their allow-lists name addresses of gateways and nothing else.

A relay stands before the port at which the caller's cluster takes completions, so that it can be taken away.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from .caller import caller_worker
from .cluster import HURRIED, Cluster
from .gateway import Gateway
from .planted import note
from .processes import free_port, scratch_folder
from .relay import Relay
from .service import handler_worker
from .world import HANDLER_QUEUE, LANES, VERSIONS, Site, World

BACK = "1.32 calls 1.32, the other way"


class RelayingGateway(Gateway):
    """A gateway that completions go through, on a port that it keeps when it is started again.

    Its file is written anew, in one step, whenever a key or an endpoint changes.
    """

    def __init__(
        self,
        clusters: Mapping[str, str],
        port: int | None = None,
        more: str = "",
        beside: RelayingGateway | None = None,
    ) -> None:
        """`clusters`: name → URL. `port`: one that allow-lists name already. `more`: other sections of its file.
        `beside`: a gateway of which this one is a replica: it has the same keys."""
        self.port = port or free_port()
        self.file = scratch_folder("config") / "gateway.yaml"
        self._clusters, self._more = clusters, more
        self._keys: list[tuple[str, str]] = list(beside._keys) if beside else []
        self._endpoints: dict[str, str] = {}
        if beside:
            self._write()
        else:
            self.rotate()
        super().__init__(config=self.file, listen=f"127.0.0.1:{self.port}")
        self.address = f"127.0.0.1:{self.port}"

    def rotate(self) -> None:
        """A new key seals; the old ones still open."""
        secret = base64.b64encode(secrets.token_bytes(32)).decode()
        note(secret)
        self._keys.insert(0, (f"k{len(self._keys) + 1}", secret))
        self._write()

    def share_keys(self, other: RelayingGateway) -> None:
        """Puts the keys of another gateway behind its own, so that its seals open here as well."""
        self._keys += [(f"{id}-{other.port}", secret) for id, secret in other._keys]
        self._write()

    def define(self, name: str, target: str) -> None:
        """Defines an endpoint, or gives it a new target: see `worker_target` and `external_target`."""
        self._endpoints[name] = target
        self._write()

    def undefine(self, name: str) -> None:
        del self._endpoints[name]
        self._write()

    def _write(self) -> None:
        sections = {
            "clusters": {name: f"{{ url: '{url}' }}" for name, url in self._clusters.items()},
            "endpoints": self._endpoints,
        }
        lines = []
        for section, entries in sections.items():
            lines += [f"{section}:"] * bool(entries) + [f"  {name}: {text}" for name, text in entries.items()]
        lines += ["callbacks:", f"  public_url: http://127.0.0.1:{self.port}", "  keys:"]
        lines += [f"    - {{ id: {id}, secret: '{secret}' }}" for id, secret in self._keys]
        lines += ['  allow: [{ url: "http://127.0.0.1:*", private: true }]', self._more, ""]
        draft = Path(f"{self.file}.draft")
        draft.write_text("\n".join(lines))
        draft.replace(self.file)

    async def apply(self, change: Callable[[], None]) -> None:
        """Makes a change of the file, and waits until the running gateway has taken it over."""
        before = await self._reloads()
        change()
        while await self._reloads() == before:
            await asyncio.sleep(0.05)

    async def _reloads(self) -> float:
        metrics = await asyncio.to_thread(self.metrics)
        return metrics.sum("nexus_gateway_config_reloads_total", result="applied")


def worker_target(site: Site, task_queue: str = HANDLER_QUEUE) -> str:
    """A task queue of a cluster, as the file has it."""
    return f"{{ worker: {{ cluster: {site.cluster.name}, namespace: default, task_queue: {task_queue} }} }}"


def external_target(url: str) -> str:
    """A URL, as the file has it."""
    return f"{{ external: {{ url: '{url}' }} }}"


class Fenced(World):
    """Servers as in `World`, each in both roles, behind allow-lists that name gateways."""

    lanes_of = {**LANES, BACK: ("handler", "caller")}
    gateway: RelayingGateway

    def __init__(self, versions: Mapping[str, str] = VERSIONS, hurried: bool = True) -> None:
        """`hurried`: the servers try again soon, so that tests need not wait for what is the servers' own patience."""
        super().__init__(versions)
        self._settings = HURRIED if hurried else {}
        self._port = free_port()
        self.spare = [free_port() for _ in range(4)]
        """Ports of further gateways to which the clusters may send completions. Each is for one gateway at a time."""
        self.relay: Relay
        """Between everyone and the completions of the cluster `caller`."""

    def _cluster(self, name: str, version: str) -> Cluster:
        allowed = [f"127.0.0.1:{port}" for port in (self._port, *self.spare)]
        cluster = Cluster(f"fenced-{name}", version, allowed=allowed, settings=self._settings)
        if name == "caller":
            self.relay = Relay(cluster)
            self._exit.callback(self.relay.stop)
            self.relay.start()
            cluster.callback_port = self.relay.port
        return cluster

    async def _settle(self, site: Site) -> None:
        await self._exit.enter_async_context(handler_worker(site.client, HANDLER_QUEUE, site.journal))
        await self._exit.enter_async_context(caller_worker(site.client))

    def _gateway(self) -> RelayingGateway:
        return RelayingGateway({site.cluster.name: site.cluster.url for site in self.sites.values()}, self._port)
