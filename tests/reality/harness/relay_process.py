"""The relay's own process: `relay_process.py PORT TARGET-PORT CONTROL-PORT`, all on loopback. Standard library only.

Each line on the control port is answered by `ok`:
  refuse   finish what is on its way, close what is idle, refuse new connections
  drop     reset every connection, refuse new ones
  heal     listen again
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class Connection:
    """One connection from a caller, and the one that it became on the other side."""

    def __init__(self, caller: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self._writers = (caller, target)
        self._answer_due = False
        self._last = False

    async def pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, asks: bool) -> None:
        """Carries bytes one way. `asks` on the way of the requests."""
        with contextlib.suppress(OSError):
            while chunk := await source.read(65536):
                self._answer_due = asks
                to.write(chunk)
                await to.drain()
                if self._last and not self._answer_due:
                    break
        self.close()

    def finish(self) -> None:
        """Closes now, or after the answer that is on its way."""
        self._last = True
        if not self._answer_due:
            self.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def reset(self) -> None:
        for writer in self._writers:
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class Relay:
    """The listening socket, while there is one, and all connections."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    async def heal(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port, backlog=1024)

    async def refuse(self) -> None:
        self._stop_listening()
        for connection in list(self._connections):
            connection.finish()

    async def drop(self) -> None:
        self._stop_listening()
        for connection in list(self._connections):
            connection.reset()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        connection = Connection(writer, target)
        if self._server is None:  # it was accepted in the very moment
            connection.reset()
            return
        self._connections.add(connection)
        try:
            await asyncio.gather(
                connection.pump(reader, target, asks=True), connection.pump(answers, writer, asks=False)
            )
        finally:
            self._connections.discard(connection)

    async def obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves the control port."""
        orders = {b"heal": self.heal, b"refuse": self.refuse, b"drop": self.drop}
        async for line in reader:
            await orders[line.strip()]()
            writer.write(b"ok\n")
        writer.close()


async def main(port: int, target: int, control: int) -> None:
    relay = Relay(port, target)
    await relay.heal()
    async with await asyncio.start_server(relay.obey, "127.0.0.1", control) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
