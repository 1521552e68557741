"""A well-behaved client: starts at a steady rate over connections that it keeps, and over new ones, each answer timed."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
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

    def __init__(
        self,
        address: str,
        path: str,
        rate: float,
        kept: int = 4,
        fresh: int = 1,
        expected: bytes = b"",
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`rate`: requests a second of each sender. `kept`, `fresh`: senders with a connection that they keep, and with
        a new one for each request. `expected`: the body of every answer. `tls`: asked for each connection."""
        self.answers: list[Timed] = []
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self._request = (
            f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
        ).encode()
        self._rate, self._expected, self._tls = rate, expected, tls
        self._senders = [False] * kept + [True] * fresh
        self._tasks: list[asyncio.Task[None]] = []
        self._open: dict[int, float] = {}
        self._renewed = 0

    async def __aenter__(self) -> Polite:
        self._tasks = [asyncio.create_task(self._send(*sender)) for sender in enumerate(self._senders)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    @property
    def failures(self) -> list[str]:
        return [answer.failed for answer in self.answers if answer.failed]

    def renew(self) -> None:
        """From now on kept connections are new ones, as those of a client that has got another certificate."""
        self._renewed += 1

    async def until_sent(self, more: int = 50) -> None:
        """Waits until so many more requests were sent over new connections, and answered."""
        since, count = time.monotonic(), 0
        while count < more:
            await asyncio.sleep(0.02)
            count = sum(1 for answer in self.answers if answer.fresh and answer.sent >= since)

    async def between(self, since: float, until: float) -> list[Timed]:
        """All that was sent in that time, once it has been answered."""
        while any(sent < until for sent in self._open.values()):
            await asyncio.sleep(0.01)
        return [answer for answer in self.answers if since <= answer.sent < until]

    async def _send(self, sender: int, fresh: bool) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        next_one, renewed = time.monotonic(), self._renewed
        while True:
            if streams and renewed != self._renewed:
                streams[1].transport.abort()
                streams = None
            sent, renewed = time.monotonic(), self._renewed
            failed, closing = "", fresh
            self._open[sender] = sent
            try:
                async with asyncio.timeout(PATIENCE):
                    if streams is None:
                        streams = await asyncio.open_connection(*self._where, ssl=self._tls and self._tls())
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
            del self._open[sender]
            self.answers.append(Timed(sent, time.monotonic() - sent, failed, fresh))
            if closing and streams:
                streams[1].transport.abort()
                streams = None
            next_one = max(next_one + 1 / self._rate, time.monotonic() - 1 / self._rate)
            await asyncio.sleep(max(0.0, next_one - time.monotonic()))
