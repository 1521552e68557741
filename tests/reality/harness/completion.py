"""Completions without a Temporal server at one end: a receiver that keeps what comes, and a sender."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .http import Answer, send
from .service import Call


@dataclass(frozen=True)
class Received:
    """One completion as it arrived. Header names are in lower case; of repeated ones, the values in their order."""

    path: str
    headers: Mapping[str, list[str]]
    body: bytes


class Receiver:
    """Stands in for a caller's cluster: takes completions on a loopback port and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[Received] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.received.append(Received(self.path, self._lines(), self._content()))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _lines(self) -> dict[str, list[str]]:
                lines: dict[str, list[str]] = {}
                for name, value in self.headers.items():
                    lines.setdefault(name.lower(), []).append(value)
                return lines

            def _content(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it wants its completions. The query has to survive as well."""
        return f"http://127.0.0.1:{self._server.server_port}/completions?of=%C3%BCs&x=1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def complete(call: Call, result: Any, url: str | None = None, **headers: str | None) -> Answer:
    """Completes an operation by the callback that its handler was given. Headers given as None are left out."""
    lines: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Nexus-Operation-State": "succeeded",
        "Nexus-Operation-Token": call.token,
        **call.callback_headers,
        **headers,
    }
    there = {name: value for name, value in lines.items() if value is not None}
    return send("POST", url or call.callback_url or "", json.dumps(result).encode(), there, timeout=15)
