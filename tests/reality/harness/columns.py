"""What an experiment reports: the same figures side by side, from the caller's own metrics and its operations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cluster import Cluster
from .http import Metrics


GOOD = ("successful", "pending")
"""How a caller's cluster calls an attempt that was answered by a result, or by the token of an operation that runs."""


@dataclass(frozen=True)
class Attempts:
    """What a caller's cluster counted for one endpoint: its attempts, and the tasks that its own breaker held back.

    A held task is counted each time it is looked at, and no more than about 100 are looked at in a second (observed):
    with many waiting, `blocked` tells for how long the breaker was open rather than how many waited. The share of
    attempts that succeeded says little beside it, since a breaker that is open makes no attempt at all.
    """

    succeeded: float
    failed: float
    blocked: float
    outcomes: Mapping[str, float]

    @classmethod
    async def read(cls, cluster: Cluster, endpoint: str, succeeded: int) -> Attempts:
        """Waits until the cluster's figures, which come late, show as many successes as are known of."""
        for _ in range(100):
            found = cls.of(await asyncio.to_thread(cluster.metrics), endpoint)
            if found.succeeded >= succeeded:
                return found
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{succeeded} operations on {endpoint} succeeded, and the cluster shows {found}")

    @classmethod
    def of(cls, metrics: Metrics, endpoint: str) -> Attempts:
        endpoint = endpoint.replace("-", "_")  # as the server writes it
        outcomes: dict[str, float] = {}
        for labels, value in metrics.rows("nexus_outbound_requests"):
            if labels.get("destination") == endpoint:
                outcomes[labels["outcome"]] = outcomes.get(labels["outcome"], 0) + value
        succeeded = sum(outcomes.get(kind, 0) for kind in GOOD)
        blocked = metrics.sum("circuit_breaker_executable_blocked", destination=endpoint)
        return cls(succeeded, sum(outcomes.values()) - succeeded, blocked, outcomes)

    @property
    def made(self) -> float:
        return self.succeeded + self.failed

    @property
    def success(self) -> float:
        """Share of the attempts that succeeded."""
        return self.succeeded / self.made if self.made else 0.0

    def rows(self) -> dict[str, str]:
        failures = ", ".join(f"{n:.0f} {kind}" for kind, n in sorted(self.outcomes.items()) if kind not in GOOD)
        return {
            "attempts of the caller's cluster": f"{self.made:.0f}",
            "  attempts that succeeded": f"{self.success:.2%}",
            "  attempts that failed": f"{self.failed:.0f}" + (f" ({failures})" if failures else ""),
            "tasks blocked by the caller's breaker": f"{self.blocked:.0f}",
        }


def percentile(values: Iterable[float], percent: float) -> float:
    """The value that so many percent do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def latency_rows(latencies: Sequence[float], what: str = "latency") -> dict[str, str]:
    return {
        f"{what}, median": seconds(percentile(latencies, 50)),
        f"{what}, p99": seconds(percentile(latencies, 99)),
        f"{what}, worst": seconds(max(latencies, default=0)),
    }


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """The columns side by side. A figure that a column does not have is a dash."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [["", *columns], *[[name, *[column.get(name, "-") for column in columns.values()]] for name in names]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


class Busy:
    """How busy the whole machine was since this was made: an experiment on a full machine measures the machine."""

    def __init__(self) -> None:
        self._since = self._read()
        self._began = time.monotonic()

    @staticmethod
    def _read() -> tuple[int, int]:
        """Idle and all clock ticks of all cores, from /proc/stat; zeros where there is none."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return 0, 0
        ticks = [int(tick) for tick in stat.read_text().splitlines()[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    def __str__(self) -> str:
        idle, every = (now - then for now, then in zip(self._read(), self._since, strict=True))
        share = f"{1 - idle / every:.0%} of its CPU" if every else "unknown CPU"
        return f"{time.monotonic() - self._began:.0f} s; the machine used {share}"
