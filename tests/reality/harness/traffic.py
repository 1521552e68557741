"""Steady traffic of raw Nexus starts from several senders, with every answer kept and tied to a phase of a test."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from .http import Answer, send
from .service import SERVICE


def start_headers(**more: str) -> dict[str, str]:
    """What a Temporal caller sends with a start of a JSON payload."""
    return {
        "Content-Type": "application/json",
        "Nexus-Request-Id": str(uuid.uuid4()),
        "Request-Timeout": "9999ms",
        "User-Agent": "temporalio/server",
        **more,
    }


def start(url: str, operation: str, input: Any = None, service: str = SERVICE, **headers: str) -> Answer:
    """Starts an operation at a target URL of an endpoint (`…/services`)."""
    return send("POST", f"{url}/{service}/{operation}", json.dumps(input).encode(), start_headers(**headers))


@dataclass(frozen=True)
class Reply:
    """One answer, or what went wrong instead, and the phases in which its request was sent and answered."""

    sent: str
    answered: str
    status: int
    reason: str
    """The gateway's own word on a failure of its making; empty for an answer that it passed on."""
    body: str


class Traffic:
    """Sends starts of one operation to one URL until left. The phase is whatever the test last called it."""

    def __init__(self, url: str, operation: str = "queue", senders: int = 3) -> None:
        self.url = url
        self.operation = operation
        self.phase = "before"
        self.replies: list[Reply] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(senders)]

    def _run(self) -> None:
        while not self._stop.is_set():
            sent = self.phase
            try:
                answer = start(self.url, self.operation)
                status, body = answer.status, answer.body.decode(errors="replace")
                reason = answer.headers.get("nexus-gateway-failure", "")
            except OSError as error:
                status, reason, body = 0, "", repr(error)
            self.replies.append(Reply(sent, self.phase, status, reason, body))
            self._stop.wait(0.01)

    async def __aenter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops, and waits for the last answers; the handlers that give them need the event loop meanwhile."""
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, 30)

    def sent_in(self, phase: str) -> list[Reply]:
        return [reply for reply in self.replies if reply.sent == phase]

    def refused(self) -> list[Reply]:
        """Everything that is not a result."""
        return [reply for reply in self.replies if reply.status != 200]

    async def enter(self, phase: str) -> None:
        """Calls the phase by a new name, and waits until a good number of its requests were answered."""
        self.phase = phase
        await self.until(lambda: len(self.sent_in(phase)) >= 30)

    async def until(self, condition: Any) -> None:
        while not condition():
            await asyncio.sleep(0.02)

    def last(self, count: int = 6) -> list[Reply]:
        """The newest replies: twice as many as there are senders, so none was on its way for long."""
        return self.replies[-count:]
