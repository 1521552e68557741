"""A small HTTP client for asking servers about themselves and for sending raw Nexus requests."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def send(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> Answer:
    """Sends one request on a connection of its own. Raises OSError when no complete answer came."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
    except http.client.HTTPException as error:
        raise OSError(f"{method} {url}: {error!r}") from error
    finally:
        connection.close()


async def asend(method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Like `send`, beside whatever else the event loop has to do."""
    return await asyncio.to_thread(send, method, url, body, headers)


def probe(url: str) -> Answer | None:
    """The answer to a GET, or None when nobody answers."""
    try:
        return send("GET", url, timeout=5)
    except OSError:
        return None


_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """One scrape of a Prometheus page."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: list[tuple[str, dict[str, str], float]] = []
        for line in text.splitlines():
            if match := _SAMPLE.match(line):
                name, labels, value = match.groups()
                self._samples.append((name, dict(_LABEL.findall(labels or "")), float(value)))

    def rows(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Every sample of a metric with its labels."""
        return [(labels, value) for found, labels, value in self._samples if found == name]

    def sum(self, name: str, **labels: str) -> float:
        """The sum over the samples that carry all these labels; 0 when there is none."""
        return sum(value for have, value in self.rows(name) if labels.items() <= have.items())

    def has(self, name: str) -> bool:
        return any(found == name for found, _, _ in self._samples)
