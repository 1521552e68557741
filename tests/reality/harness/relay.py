"""A TCP relay between callers and a cluster, by which a test makes the cluster unreachable and reachable again."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from .cluster import Cluster, Endpoint
from .processes import Child, free_port

WAYS = ("drop", "refuse", "stop")
"""How a cluster can be made unreachable: connections reset and new ones refused; new ones refused after what is on
its way was finished; the server's process stopped, so that connections stay and nothing answers."""


class Relay:
    """Listens in front of the HTTP port of one cluster, in a process of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.port, self._control = free_port(), free_port()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def direct_url(self, endpoint: Endpoint) -> str:
        """The target URL with which another cluster reaches an endpoint through the relay and without a gateway."""
        return f"{self.url}/nexus/endpoints/{endpoint.id}/services"

    def start(self) -> Relay:
        process = Path(__file__).with_name("relay_process.py")
        ports = [str(port) for port in (self.port, self._cluster.http_port, self._control)]
        self._child = Child("relay", [sys.executable, str(process), *ports])
        self._child.ready(lambda: self._tell("heal"))
        return self

    def _tell(self, order: str) -> bool | None:
        try:
            with socket.create_connection(("127.0.0.1", self._control), timeout=10) as control:
                control.sendall(order.encode() + b"\n")
                return True if control.recv(3) == b"ok\n" else None
        except ConnectionRefusedError:
            return None

    def take_away(self, way: str) -> None:
        """Makes the cluster unreachable in one of `WAYS`."""
        if way == "stop":
            self._cluster.suspend()
        elif not self._tell(way):
            raise RuntimeError(f"the relay does not listen: {way}")

    def heal(self) -> None:
        """Undoes whatever `take_away` did."""
        self._cluster.resume()
        self._tell("heal")

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
