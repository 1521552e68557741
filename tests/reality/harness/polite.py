"""A well-behaved client: starts at a steady rate over connections that it keeps, and over new ones, each answer timed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

PATIENCE = 30.0
"""Seconds after which an answer is taken not to come."""


@dataclass(frozen=True)
class Timed:
    """One request. Times are seconds on the monotonic clock."""

    sent: float
    took: float
    failed: str
    """What was wrong with its answer; empty where nothing was."""
    fresh: bool
    """Over a connection of its own, the making of which is timed as well."""


class Polite:
    """Sends until left."""

    def __init__(self, address: str, path: str, rate: float, kept: int = 4, fresh: int = 1, expected: bytes = b"") -> None:
        """`rate`: requests a second of each sender. `kept`, `fresh`: senders with a connection that they keep, and with
        a new one for each request. `expected`: the body of every answer."""
        self.answers: list[Timed] = []
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self._request = (
            f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        ).encode()
        self._rate, self._expected = rate, expected
        self._senders = [False] * kept + [True] * fresh
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Polite:
        self._tasks = [asyncio.create_task(self._send(fresh)) for fresh in self._senders]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def _send(self, fresh: bool) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        next_one = time.monotonic()
        while True:
            sent = time.monotonic()
            failed, closing = "", fresh
            try:
                async with asyncio.timeout(PATIENCE):
                    if streams is None:
                        streams = await asyncio.open_connection(*self._where)
                    reader, writer = streams
                    writer.write(self._request)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                    body = await reader.readexactly(length)
                closing |= b"connection: close" in head
                if not head.startswith(b"http/1.1 200") or (self._expected and body != self._expected):
                    failed = f"{head[:12].decode()} {body[:200].decode(errors='replace')}"
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError) as error:
                failed, closing = repr(error), True
            self.answers.append(Timed(sent, time.monotonic() - sent, failed, fresh))
            if closing and streams:
                streams[1].transport.abort()
                streams = None
            next_one = max(next_one + 1 / self._rate, time.monotonic() - 1 / self._rate)
            await asyncio.sleep(max(0.0, next_one - time.monotonic()))
