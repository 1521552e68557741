"""One operation of an endpoint always fails with a retryable 500; another one beside it is healthy.

Three endpoints are called at the same rates: directly and through the gateway by a Temporal caller, whose own breaker
is one for the whole endpoint, and through the gateway by raw requests, behind which no such breaker stands. The third
shows what the gateway does to the healthy operation; what the second has beyond that is the caller's own doing.

With --park a fourth column's gateway answers the failing operation by 201 and goes on with it by itself, until it has
been parked for too long. The columns then come one after the other on fresh clusters, at 10 calls a second.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from harness.calls import Operation, RawAnswer, RawCalls, calls_of, successes
from harness.cluster import NEWEST, VERSIONS
from harness.columns import Attempts, Busy, latency_rows, table
from harness.gateway import Gateway, configuration
from harness.parking import ParkingGateway, parking_rows
from harness.service import Trouble
from harness.world import HANDLER_QUEUE, Site

from .setting import PARKED, WITH, WITHOUT, failures_row, script, two_sites

HEALTHY, FAILING = "echo", "handler_error"
ALWAYS = Trouble("INTERNAL", tries=10**9)
RAW = "raw, with the gateway"

POLICIES = """
policies:
  - retry: { attempts: 2, on: [connect, unavailable, reset] }
    breaker: { failure_rate: 50%, min_requests: 10, window: 10s, open_for: 5s, per: operation }
"""
PARKING = POLICIES + "    park: { on: [unreachable, breaker_open, retryable_failure], max_age: 30s }\n"
"""What fails for good is given up after a while, which bounds how much of it there is."""


@dataclass
class Column:
    """What one Temporal caller's endpoint came to."""

    attempts: Attempts
    healthy: list[Operation]

    def rows(self, now: float) -> dict[str, str]:
        return {
            "healthy calls": f"{len(self.healthy)}",
            "  succeeded": f"{successes(self.healthy)}",
            **latency_rows([operation.latency(now) for operation in self.healthy], "healthy latency"),
            **self.attempts.rows(),
        }


@dataclass
class RawColumn:
    """What the raw callers got, and what the gateway's breakers did meanwhile."""

    healthy: list[RawAnswer]
    failing: list[RawAnswer]
    states: dict[str, set[float]] = field(default_factory=dict)
    """By operation, every value of `nexus_gateway_breaker_state` that was seen."""

    def rows(self) -> dict[str, str]:
        seen = {operation: sorted(states) for operation, states in self.states.items()}
        return {
            "healthy calls": f"{len(self.healthy)}",
            "  succeeded": f"{sum(1 for answer in self.healthy if answer.status == 200)}",
            **latency_rows([answer.took for answer in self.healthy], "healthy latency"),
            "failing calls": f"{len(self.failing)}",
            "  answered by the handler": f"{sum(1 for answer in self.failing if not answer.failure)}",
            "  refused by the gateway": f"{sum(1 for answer in self.failing if answer.failure)}",
            "healthy breaker's states": f"{seen.get(HEALTHY, [])}",
            "failing breaker's states": f"{seen.get(FAILING, [])}",
        }


@dataclass
class Result:
    """The columns, and what their gateways say of themselves."""

    callers: dict[str, Column]
    raw: RawColumn
    gateways: dict[str, dict[str, str]]

    def columns(self) -> dict[str, dict[str, str]]:
        now = time.time()
        columns = {way: column.rows(now) | self.gateways.get(way, {}) for way, column in self.callers.items()}
        return columns | ({RAW: self.raw.rows()} if self.raw.healthy else {})


async def watch(gateway: Gateway, endpoint: str, states: dict[str, set[float]]) -> None:
    """Notes the states of the endpoint's breakers until cancelled."""
    while True:
        metrics = await asyncio.to_thread(gateway.metrics)
        for labels, value in metrics.rows("nexus_gateway_breaker_state"):
            if labels.get("endpoint") == endpoint:
                states[labels["operation"]].add(value)
        await asyncio.sleep(0.2)


async def run(
    caller: Site,
    handler: Site,
    rate: float,
    lasts: float,
    patience: float,
    policies: str = POLICIES,
    ways: Sequence[str] = (WITH, WITHOUT, RAW),
) -> Result:
    """Calls both operations of all endpoints for `lasts` seconds, and waits `patience` seconds for healthy ones that
    have not ended. Failing operations are given up by their caller in that time."""
    mark = uuid.uuid4().hex[:8]
    names = {way: f"neighbours-{i}-{mark}" for i, way in enumerate(ways)}
    targets = {way: await handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE) for way, name in names.items()}
    async with AsyncExitStack() as stack:
        if PARKED in ways:
            gateway: Gateway = ParkingGateway({"shop": handler.cluster.url}, policies=PARKING)
        else:
            gateway = Gateway([handler.cluster.url], config=configuration(policies) if policies else None)
        stack.callback(gateway.stop)
        await asyncio.to_thread(gateway.start)
        called = [way for way in ways if way != RAW]
        for way in called:
            direct = handler.cluster.direct_url(targets[way])
            url = direct if way == WITHOUT else gateway.target_url(names[way])
            await caller.cluster.create_external_endpoint(names[way], url)

        calls = calls_of(caller.cluster.version)
        healthy = {way: calls(caller.client, names[way], HEALTHY, rate=rate) for way in called}
        limit = lasts + patience
        failing = [calls(caller.client, names[way], FAILING, ALWAYS, rate, limit) for way in called]
        raw_url = gateway.target_url(names.get(RAW, ""))
        raw_healthy = RawCalls(raw_url, HEALTHY, rate=rate)
        raw_failing = RawCalls(raw_url, FAILING, ALWAYS.__dict__, rate=rate)
        states: dict[str, set[float]] = defaultdict(set)
        watcher = asyncio.create_task(watch(gateway, names.get(RAW, ""), states))
        async with AsyncExitStack() as traffic:
            for one in (*healthy.values(), *failing, *([raw_healthy, raw_failing] if RAW in ways else [])):
                await traffic.enter_async_context(one)
            await asyncio.sleep(lasts)
        watcher.cancel()
        ended = await asyncio.gather(*[one.settle(patience) for one in healthy.values()])
        for each in failing:
            await each.abandon()
        columns = {
            way: Column(await Attempts.read(caller.cluster, names[way], successes(operations)), operations)
            for way, operations in zip(healthy, ended, strict=True)
        }
        raw = RawColumn(raw_healthy.answers, raw_failing.answers, states)
        metrics = await asyncio.to_thread(gateway.metrics)
        told = {WITH: failures_row(metrics), PARKED: failures_row(metrics) | parking_rows(metrics)}
        return Result(columns, raw, told)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="calls a second of each operation; 20, or 10 with --park")
    parser.add_argument("--lasts", type=float, default=60, help="seconds of calls")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for operations at the end")
    parser.add_argument("--caller", choices=VERSIONS, default=NEWEST, help="version of the caller's server")
    parser.add_argument("--park", action="store_true", help="a gateway that parks as well")
    parser.add_argument("--plain", action="store_true", help="a gateway without policies")
    options = parser.parse_args()
    rate = options.rate or (10 if options.park else 20)
    print(f"{rate:.0f} calls a second of each operation by {options.caller}, {options.lasts:.0f} s long", flush=True)
    policies = "" if options.plain else POLICIES
    columns: dict[str, dict[str, str]] = {}
    for ways in ([PARKED], [WITH], [WITHOUT]) if options.park else ([WITH, WITHOUT, RAW],):
        busy = Busy()
        async with two_sites(options.caller) as (caller, handler):
            result = await run(caller, handler, rate, options.lasts, options.patience, policies, ways)
            columns |= result.columns()
        print(f"{', '.join(ways)}: {busy}", flush=True)
    print(f"\n{table(columns)}")


if __name__ == "__main__":
    script(main())
