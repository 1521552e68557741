"""A Nexus handler that answers every start with the same result at once: `python -m harness.stub PORT [aside]`.

It keeps what it costs and how long it takes the same, so that what is measured in front of it is the gateway.
"""

from __future__ import annotations

import asyncio
import sys

from .processes import ROOT, Child, free_port, stand_aside

REALITY = ROOT / "tests/reality"

RESULT = b'{"done": true}'
LARGE = b'"' + b"x" * (256 << 10) + b'"'
"""What an operation called `large` is answered."""


class Stub(asyncio.Protocol):
    """One connection. Requests are read by their length; nothing else of them matters."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._got[:end]).lower()
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name == b"content-length":
                    length = int(value)
            if len(self._got) < end + 4 + length:
                return
            del self._got[: end + 4 + length]
            result = LARGE if b"/large " in head.split(b"\r\n")[0] else RESULT
            told = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(result)}\r\n\r\n"
            self._transport.write(told.encode() + result)


def start_stub(aside: bool = False) -> tuple[Child, str]:
    """A handler in a process of its own, and its address. `aside`: everything else on the machine goes before it."""
    port = free_port()
    command = [sys.executable, "-m", "harness.stub", str(port), *(["aside"] if aside else [])]
    child = Child("stub", command, env={"PYTHONPATH": str(REALITY)})
    child.ready(lambda: True if "listening" in child.output() else None)
    return child, f"127.0.0.1:{port}"


async def main(port: int, *how: str) -> None:
    if "aside" in how:
        stand_aside()
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
