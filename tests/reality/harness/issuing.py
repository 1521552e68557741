"""A small HTTP server, such as one that hands out tokens or publishes keys; it can be away for a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .processes import free_port

Respond = Callable[[Mapping[str, str], str], tuple[int, Any]]
"""Headers by their names in lower case, and body → status, and what is answered as JSON."""


class Issuing:
    """Answers every request as `respond` says."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.answered = 0
        self._port = free_port()
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        issuing = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length).decode()
                status, answer = issuing.respond({k.lower(): v for k, v in self.headers.items()}, body)
                issuing.answered += 1
                told = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Nobody answers any more; `start` ends that."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
