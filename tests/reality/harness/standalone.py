"""Operations that the command line starts without any caller workflow (servers from 1.32)."""

from __future__ import annotations

import json
import uuid

from .cluster import Cluster
from .service import SERVICE


class Standalone:
    """One operation, driven by `temporal nexus operation …` on the caller's cluster."""

    def __init__(self, caller: Cluster, endpoint: str, operation: str, input: object) -> None:
        self.id = f"standalone-{uuid.uuid4()}"
        self._cli = caller.cli
        self._start = ["--endpoint", endpoint, "--service", SERVICE, "--operation", operation]
        self._start += ["--input", json.dumps(input), "--schedule-to-close-timeout", "2m"]

    async def run(self, verb: str, *flags: str, fails: bool = False) -> str:
        return await self._cli("nexus", "operation", verb, "--operation-id", self.id, *flags, fails=fails)

    async def start(self) -> None:
        await self.run("start", *self._start)

    async def result(self) -> str:
        """What `result` prints, whether it succeeds or not."""
        return await self.run("result", fails=True)

    async def describe(self) -> dict[str, object]:
        return dict(json.loads(await self.run("describe", "--output", "json")))

    async def state(self) -> str:
        return str((await self.describe())["status"])
