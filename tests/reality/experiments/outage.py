"""The handler's cluster becomes unreachable for seconds, again and again, while a caller's cluster keeps calling it.

Between the cluster's HTTP port and everyone else stands a relay that takes it away: it resets connections, refuses new
ones, or the server's process is stopped. Both columns, calls through the gateway and direct ones at the same rate,
get the same outages: one after the other on fresh clusters, unless --together. Together, p99 with the gateway was 50 s
instead of 5 s (observed): they share the caller's cluster, and in the direct column thousands of tasks wait there.

With --park the gateway answers what cannot get through by 201 and completes it later, which is also for outages that
are far longer than what a caller waits: `--park --lasts 45 --outages 3`, `--park --lasts 600 --outages 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from harness.calls import Operation, calls_of, successes
from harness.cluster import NEWEST, VERSIONS
from harness.columns import Attempts, Busy, latency_rows, percentile, seconds, table
from harness.gateway import Gateway, configuration
from harness.parking import ParkingGateway, parking_rows
from harness.relay import WAYS, Relay
from harness.world import HANDLER_QUEUE, Site

from .setting import PARKED, WITH, WITHOUT, failures_row, gateway_rows, script, two_sites

POLICIES = """
policies:
  - match: { endpoint: %s }
    retry: { attempts: 2, on: [connect, unavailable, reset] }
    breaker: { failure_rate: 50%%, min_requests: 10, window: 10s, open_for: 5s, per: operation }
"""
PARKING = POLICIES + "    park: on\n"


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
    drains: list[float | None]
    """For each outage the seconds from its end until all had ended that began before that; None: some never did."""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def succeeded(self) -> int:
        return successes(self.operations)

    def rows(self, now: float) -> dict[str, str]:
        latencies = [operation.latency(now) for operation in self.operations]
        flowing = [recovery for recovery in self.recoveries if recovery is not None]
        drained = [drain for drain in self.drains if drain is not None]
        return {
            "operations": f"{len(self.operations)}",
            "  succeeded": f"{self.succeeded}",
            "  took over 5 s": f"{sum(1 for latency in latencies if latency > 5)}",
            **latency_rows(latencies),
            **self.attempts.rows(),
            "flowing again, median": seconds(percentile(flowing, 50)) if flowing else "-",
            "flowing again, worst": seconds(max(flowing)) if flowing else "-",
            "not flowing before the next outage": f"{len(self.recoveries) - len(flowing)} of {len(self.recoveries)}",
            "all done after the outage in, median": seconds(percentile(drained, 50)) if drained else "-",
            "all done after the outage in, worst": seconds(max(drained)) if drained else "-",
            "never all done": f"{len(self.drains) - len(drained)} of {len(self.drains)}",
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


def drains(operations: Sequence[Operation], outages: Sequence[tuple[float, float]]) -> list[float | None]:
    """For each outage, given by begin and end, how long after it the last of those ended that had begun before its
    end. What the outages after it held up counts as well."""
    found: list[float | None] = []
    for _, healed in outages:
        ends = [operation.closed for operation in operations if operation.scheduled < healed]
        known = [end for end in ends if end is not None]
        found.append(max([0.0, *[end - healed for end in known]]) if len(known) == len(ends) else None)
    return found


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


def gateway_of(way: str, relay: Relay, endpoint: str, policies: str) -> Gateway:
    """One that reaches the handler's cluster through the relay, with its policies for this endpoint."""
    text = policies % endpoint if policies else ""
    if way == PARKED:
        return ParkingGateway({"shop": relay.url}, policies=text)
    return Gateway(config=configuration(f"clusters: {{ shop: {{ url: '{relay.url}' }} }}\n{text}"))


async def run(
    caller: Site,
    handler: Site,
    outages: Sequence[Outage],
    rate: float,
    calm: float,
    patience: float,
    ways: Mapping[str, str] = MappingProxyType({WITH: POLICIES, WITHOUT: ""}),
) -> dict[str, Column]:
    """Calls `rate` times a second in each column, for `calm` seconds longer than the outages last, and then waits
    `patience` seconds for the operations that have not ended. `ways`: columns, and the policies of their gateways."""
    name = f"outage-{uuid.uuid4().hex[:8]}"
    target = await handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE)
    limit = 600 + patience + sum(outage.after + outage.lasts for outage in outages)
    async with AsyncExitStack() as stack:
        relay = Relay(handler.cluster)
        stack.callback(relay.stop)
        stack.callback(handler.cluster.resume)
        await asyncio.to_thread(relay.start)
        gateways = {way: gateway_of(way, relay, name, policies) for way, policies in ways.items() if way != WITHOUT}
        for gateway in gateways.values():
            stack.callback(gateway.stop)
            await asyncio.to_thread(gateway.start)
        urls = {WITHOUT: relay.direct_url(target)} | {way: one.target_url(name) for way, one in gateways.items()}
        endpoints = {way: f"{way.split()[-1]}-{name}" for way in ways}
        kind = calls_of(caller.cluster.version)
        calls = {way: kind(caller.client, endpoints[way], rate=rate, limit=limit) for way in ways}
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
            found = recoveries(operations, happened), drains(operations, happened)
            columns[way] = Column(attempts, operations, *found)
        for way, gateway in gateways.items():
            metrics = await asyncio.to_thread(gateway.metrics)
            columns[way].extra = gateway_rows(metrics) | failures_row(metrics)
            columns[way].extra |= parking_rows(metrics) if way == PARKED else {}
        return columns


def columns_of(options: argparse.Namespace) -> list[dict[str, str]]:
    """Which columns there are, with the policies of their gateways: those of each entry run together."""
    policies = "" if options.plain else POLICIES
    ways = {PARKED: PARKING, WITHOUT: ""} if options.park else {WITH: policies, WITHOUT: ""}
    if options.beside:
        ways |= {WITH: policies}
    return [ways] if options.together else [{way: text} for way, text in ways.items()]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outages", type=int, default=20)
    parser.add_argument("--lasts", type=float, default=5, help="seconds of each outage")
    parser.add_argument("--gaps", type=float, nargs=2, default=(8, 20), help="shortest and longest time between two")
    parser.add_argument("--rate", type=float, help="calls a second in each column; 50, or 10 with --park")
    parser.add_argument("--calm", type=float, default=20, help="seconds of calls after the last outage")
    parser.add_argument("--patience", type=float, help="seconds to wait for operations at the end; 120 and an outage")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--way", choices=WAYS, help="one way only in which the cluster is lost")
    parser.add_argument("--caller", choices=VERSIONS, default=NEWEST, help="version of the caller's server")
    parser.add_argument("--park", action="store_true", help="a gateway that parks, instead of one that only waits")
    parser.add_argument("--beside", action="store_true", help="with --park: one that only waits as well")
    parser.add_argument("--together", action="store_true", help="all columns at once, on the same clusters")
    parser.add_argument("--plain", action="store_true", help="a gateway without policies")
    options = parser.parse_args()
    rate = options.rate or (10 if options.park else 50)
    patience = options.patience or 120 + options.lasts
    outages = draw(options.seed, options.outages, options.lasts, tuple(options.gaps))
    if options.way:
        outages = [replace(outage, way=options.way) for outage in outages]
    length = sum(outage.after + outage.lasts for outage in outages) + options.calm
    print(
        f"{len(outages)} outages of {options.lasts:.0f} s ({', '.join(outage.way for outage in outages)}), "
        f"{rate:.0f} calls a second by {options.caller} in each column for {length:.0f} s, seed {options.seed}",
        flush=True,
    )
    columns: dict[str, Column] = {}
    for ways in columns_of(options):
        busy = Busy()
        async with two_sites(options.caller) as (caller, handler):
            columns |= await run(caller, handler, outages, rate, options.calm, patience, ways)
        print(f"{' and '.join(ways)}: {busy}", flush=True)
    now = time.time()
    print("\n" + table({way: column.rows(now) for way, column in columns.items()}))


if __name__ == "__main__":
    script(main())
