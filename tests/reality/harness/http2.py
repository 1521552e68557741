"""Frames of HTTP/2 (RFC 9113) as a hostile client would send them: every field is whatever the caller says.

Header blocks are literals without Huffman coding or indexing (RFC 7541 §6.2.2) unless built otherwise.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4

INITIAL_WINDOW_SIZE = 0x4
CANCEL = 0x8

MAX_FRAME = 16_384
"""Bytes of payload that every receiver takes (RFC 9113 §4.2)."""


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; the one value that is of use here is `window`."""
    window = values.get("window")
    return frame(SETTINGS, payload=b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window))


def acknowledge() -> bytes:
    return frame(SETTINGS, ACK)


def ping(data: bytes = b"12345678") -> bytes:
    return frame(PING, payload=data)


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, stream=stream, payload=struct.pack(">I", code))


def integer(value: int, prefix: int, flags: int = 0) -> bytes:
    """An integer of HPACK in the last `prefix` bits of the first byte (RFC 7541 §5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([flags | value])
    out, value = bytearray([flags | most]), value - most
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    out.append(value)
    return bytes(out)


def literal(name: str, value: str, indexed: bool = False) -> bytes:
    """One field with its name and value spelled out; `indexed` also puts it into the receiver's table."""
    told = [name.encode(), value.encode()]
    return (b"\x40" if indexed else b"\x00") + b"".join(integer(len(text), 7) + text for text in told)


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def request(path: str, authority: str, **more: str) -> list[tuple[str, str]]:
    """The fields of a start."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority)]
    return fields + [("content-type", "application/json"), *((k.replace("_", "-"), v) for k, v in more.items())]


@dataclass(frozen=True)
class Frame:
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises `asyncio.IncompleteReadError` where the connection ended."""
    head = await reader.readexactly(9)
    length = int.from_bytes(head[:3], "big")
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return Frame(kind, flags, stream & 0x7FFF_FFFF, await reader.readexactly(length))
