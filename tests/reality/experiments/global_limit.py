"""Three gateways that share one rate limit, kept in a real Redis, in front of one cheap handler over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType

from harness.calls import RawAnswer, RawCalls
from harness.gateway import Gateway, configuration
from harness.redis import Redis


NAME = "shared"

CONFIG = """
redis: {{ url: '{redis}' }}
endpoints: {{ shared: {{ external: {{ url: '{handler}' }} }} }}
policies:
  - match: {{ endpoint: shared }}
    rate_limit: {{ per: [endpoint], rate: {rate}/s, burst: 10, max_wait: {max_wait}, scope: global, on_failure: local }}
"""


class Handler:
    """Answers every start with a result, and keeps when each one came."""

    def __init__(self) -> None:
        self.came: list[float] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> Handler:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                self.came.append(time.monotonic())
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n""')
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):  # they left, or the test ended
            writer.close()

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()


class SharedLimit:
    """The Redis, the handler and the gateways; use with `async with`."""

    def __init__(self, rate: int, max_wait: str, gateways: int = 3) -> None:
        self.rate = rate
        self._max_wait, self._count = max_wait, gateways
        self.redis, self.handler = Redis(), Handler()
        self.gateways: list[Gateway] = []
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> SharedLimit:
        async with AsyncExitStack() as stack:
            stack.callback(self.redis.stop)
            await asyncio.to_thread(self.redis.start)
            stack.callback(self.handler.stop)
            await self.handler.start()
            text = CONFIG.format(
                redis=self.redis.url, handler=self.handler.url, rate=self.rate, max_wait=self._max_wait
            )
            for _ in range(self._count):
                gateway = Gateway(config=configuration(text))
                stack.callback(gateway.stop)
                self.gateways.append(await asyncio.to_thread(gateway.start))
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.__aexit__(kind, error, trace)

    def callers(self, rates: Sequence[float]) -> list[RawCalls]:
        """One for each gateway, with so many calls a second."""
        return [
            RawCalls(gateway.target_url(NAME), rate=rate) for gateway, rate in zip(self.gateways, rates, strict=True)
        ]

    async def load(self, rates: Sequence[float], lasts: float) -> list[RawAnswer]:
        """Calls for `lasts` seconds; all answers."""
        calls = self.callers(rates)
        async with AsyncExitStack() as traffic:
            for one in calls:
                await traffic.enter_async_context(one)
            await asyncio.sleep(lasts)
        return [answer for one in calls for answer in one.answers]

    def let_through(self, since: int = 0) -> tuple[int, float]:
        """How many requests reached the handler after the first `since`, and the seconds from the first to the last."""
        came = self.handler.came[since:]
        return len(came), came[-1] - came[0] if came else 0.0
