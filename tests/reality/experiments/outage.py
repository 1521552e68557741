"""The handler's cluster becomes unreachable for seconds, again and again, while a caller's cluster keeps calling it.

Between the cluster's HTTP port and everyone else stands a relay that takes it away: it resets connections, refuses new
ones, or the server's process is stopped. Both columns, calls through the gateway and direct ones at the same rate,
get the same outages: one after the other on fresh clusters, unless --together. Together, p99 with the gateway was 50 s
instead of 5 s (observed): they share the caller's cluster, and in the direct column thousands of tasks wait there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from harness.calls import Calls, Operation, successes
from harness.columns import Attempts, Busy, latency_rows, percentile, seconds, table
from harness.gateway import Gateway
from harness.relay import WAYS, Relay
from harness.world import HANDLER_QUEUE, Site

from .setting import WITH, WITHOUT, configuration, failures_row, gateway_rows, script, two_sites

POLICIES = """
policies:
  - match: { endpoint: %s }
    retry: { attempts: 2, on: [connect, unavailable, reset] }
    breaker: { failure_rate: 50%%, min_requests: 10, window: 10s, open_for: 5s, per: operation }
"""


@dataclass(frozen=True)
class Outage:
    """Begins so many seconds after the one before ended."""

    way: str
    after: float
    lasts: float


def draw(seed: int, count: int, lasts: float, gaps: tuple[float, float]) -> list[Outage]:
    """Outages at random moments. Every way comes once before any comes again."""
    chance = random.Random(seed)
    ways: list[str] = []
    while len(ways) < count:
        ways += chance.sample(WAYS, len(WAYS))
    return [Outage(way, chance.uniform(*gaps), lasts) for way in ways[:count]]


@dataclass
class Column:
    """What one way of calling came to."""

    attempts: Attempts
    operations: list[Operation]
    recoveries: list[float | None]
    """For each outage the seconds from its end to the first success; None: none before the next one, or at all."""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def succeeded(self) -> int:
        return successes(self.operations)

    def rows(self, now: float) -> dict[str, str]:
        latencies = [operation.latency(now) for operation in self.operations]
        flowing = [recovery for recovery in self.recoveries if recovery is not None]
        return {
            "operations": f"{len(self.operations)}",
            "  succeeded": f"{self.succeeded}",
            "  took over 5 s": f"{sum(1 for latency in latencies if latency > 5)}",
            **latency_rows(latencies),
            **self.attempts.rows(),
            "flowing again, median": seconds(percentile(flowing, 50)) if flowing else "-",
            "flowing again, worst": seconds(max(flowing)) if flowing else "-",
            "not flowing before the next outage": f"{len(self.recoveries) - len(flowing)} of {len(self.recoveries)}",
            **self.extra,
        }


def recoveries(operations: Sequence[Operation], outages: Sequence[tuple[float, float]]) -> list[float | None]:
    """For each outage, given by begin and end, how long after it the first success came."""
    ends = sorted(operation.closed for operation in operations if operation.succeeded and operation.closed)
    nexts = [*[begin for begin, _ in outages[1:]], float("inf")]
    return [
        next((end - healed for end in ends if healed <= end < following), None)
        for (_, healed), following in zip(outages, nexts, strict=True)
    ]


async def suffer(relay: Relay, outages: Sequence[Outage]) -> list[tuple[float, float]]:
    """Lets the outages happen; when each began and ended."""
    found = []
    for outage in outages:
        await asyncio.sleep(outage.after)
        began = time.time()
        try:
            await asyncio.to_thread(relay.take_away, outage.way)
            await asyncio.sleep(outage.lasts)
        finally:
            healed = time.time()
            await asyncio.to_thread(relay.heal)
        found.append((began, healed))
    return found


async def run(
    caller: Site,
    handler: Site,
    outages: Sequence[Outage],
    rate: float,
    calm: float,
    patience: float,
    policies: str = POLICIES,
    ways: Sequence[str] = (WITH, WITHOUT),
) -> dict[str, Column]:
    """Calls `rate` times a second in each column, for `calm` seconds longer than the outages last, and then waits
    `patience` seconds for the operations that have not ended."""
    name = f"outage-{uuid.uuid4().hex[:8]}"
    target = await handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE)
    async with AsyncExitStack() as stack:
        relay = Relay(handler.cluster)
        stack.callback(relay.stop)
        stack.callback(handler.cluster.resume)
        await asyncio.to_thread(relay.start)
        cluster = f"clusters: {{ shop: {{ url: '{relay.url}' }} }}\n"
        gateway = Gateway(config=configuration(cluster + (policies % name if policies else "")))
        stack.callback(gateway.stop)
        await asyncio.to_thread(gateway.start)
        urls = {WITH: gateway.target_url(name), WITHOUT: relay.direct_url(target)}
        endpoints = {WITH: f"via-{name}", WITHOUT: f"direct-{name}"}
        calls = {way: Calls(caller.client, endpoints[way], rate=rate) for way in ways}
        for way in ways:
            await caller.cluster.create_external_endpoint(endpoints[way], urls[way])
        async with AsyncExitStack() as traffic:
            for one in calls.values():
                await traffic.enter_async_context(one)
            happened = await suffer(relay, outages)
            await asyncio.sleep(calm)
        ended = await asyncio.gather(*[one.settle(patience) for one in calls.values()])
        columns = {}
        for way, operations in zip(ways, ended, strict=True):
            attempts = await Attempts.read(caller.cluster, endpoints[way], successes(operations))
            columns[way] = Column(attempts, operations, recoveries(operations, happened))
        if WITH in columns:
            metrics = await asyncio.to_thread(gateway.metrics)
            columns[WITH].extra = gateway_rows(metrics) | failures_row(metrics)
        return columns


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outages", type=int, default=20)
    parser.add_argument("--lasts", type=float, default=5, help="seconds of each outage")
    parser.add_argument("--gaps", type=float, nargs=2, default=(8, 20), help="shortest and longest time between two")
    parser.add_argument("--rate", type=float, default=50, help="calls a second in each column")
    parser.add_argument("--calm", type=float, default=20, help="seconds of calls after the last outage")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for operations at the end")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--together", action="store_true", help="both columns at once, on the same clusters")
    parser.add_argument("--plain", action="store_true", help="a gateway without policies")
    options = parser.parse_args()
    outages = draw(options.seed, options.outages, options.lasts, tuple(options.gaps))
    length = sum(outage.after + outage.lasts for outage in outages) + options.calm
    print(
        f"{len(outages)} outages of {options.lasts:.0f} s ({', '.join(outage.way for outage in outages)}), "
        f"{options.rate:.0f} calls a second in each column for {length:.0f} s, seed {options.seed}",
        flush=True,
    )
    columns: dict[str, Column] = {}
    for ways in ((WITH, WITHOUT),) if options.together else ((WITH,), (WITHOUT,)):
        busy = Busy()
        async with two_sites() as (caller, handler):
            policies = "" if options.plain else POLICIES
            columns |= await run(caller, handler, outages, options.rate, options.calm, options.patience, policies, ways)
        print(f"{' and '.join(ways)}: {busy}", flush=True)
    now = time.time()
    print("\n" + table({way: column.rows(now) for way, column in columns.items()}))


if __name__ == "__main__":
    script(main())
