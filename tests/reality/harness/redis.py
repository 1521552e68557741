"""A real redis-server on a free loopback port, which a test can stop and start again."""

from __future__ import annotations

import shutil
import signal
import socket

from .processes import Child, free_port, scratch_folder


class Redis:
    """One server. It keeps nothing on disk: after a new start it is empty."""

    def __init__(self) -> None:
        self.port = free_port()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> Redis:
        command = shutil.which("redis-server")
        if command is None:
            raise FileNotFoundError("redis-server is missing. On Debian and Ubuntu: apt-get install redis-server")
        flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._child = Child("redis", [command, *flags, "--dir", str(scratch_folder("redis-data"))])
        self._child.ready(self._answers)
        return self

    def _answers(self) -> bool | None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return True if connection.recv(16).startswith(b"+PONG") else None
        except OSError:
            return None

    def suspend(self) -> None:
        """Stops the process, not the server: connections stay, and nothing answers."""
        assert self._child is not None
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGCONT)
            self._child.stop()
            self._child = None
