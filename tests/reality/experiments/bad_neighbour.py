"""One operation of an endpoint always fails with a retryable 500; another one beside it is healthy.

Three endpoints are called at the same rates: directly and through the gateway by a Temporal caller, whose own breaker
is one for the whole endpoint, and through the gateway by raw requests, behind which no such breaker stands. The third
shows what the gateway does to the healthy operation; what the second has beyond that is the caller's own doing.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from harness.calls import Calls, Operation, RawAnswer, RawCalls, successes
from harness.columns import Attempts, Busy, latency_rows, table
from harness.gateway import Gateway
from harness.service import Trouble
from harness.world import HANDLER_QUEUE, Site

from .setting import WITH, WITHOUT, configuration, failures_row, script, two_sites

HEALTHY, FAILING = "echo", "handler_error"
ALWAYS = Trouble("INTERNAL", tries=10**9)
RAW = "raw, with the gateway"

POLICIES = """
policies:
  - retry: { attempts: 2, on: [connect, unavailable, reset] }
    breaker: { failure_rate: 50%, min_requests: 10, window: 10s, open_for: 5s, per: operation }
"""


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
    """All three columns, and what the gateway says of itself."""

    callers: dict[str, Column]
    raw: RawColumn
    gateway: dict[str, str]

    def columns(self) -> dict[str, dict[str, str]]:
        now = time.time()
        columns = {way: column.rows(now) for way, column in self.callers.items()}
        columns[WITH] |= self.gateway
        return columns | {RAW: self.raw.rows()}


async def watch(gateway: Gateway, endpoint: str, states: dict[str, set[float]]) -> None:
    """Notes the states of the endpoint's breakers until cancelled."""
    while True:
        metrics = await asyncio.to_thread(gateway.metrics)
        for labels, value in metrics.rows("nexus_gateway_breaker_state"):
            if labels.get("endpoint") == endpoint:
                states[labels["operation"]].add(value)
        await asyncio.sleep(0.2)


async def run(
    caller: Site, handler: Site, rate: float, lasts: float, patience: float, policies: str = POLICIES
) -> Result:
    """Calls both operations of all three endpoints for `lasts` seconds, and waits `patience` seconds for healthy ones
    that have not ended. Failing operations are given up by their caller in that time."""
    mark = uuid.uuid4().hex[:8]
    names = {way: f"neighbours-{i}-{mark}" for i, way in enumerate((WITH, WITHOUT, RAW))}
    targets = {way: await handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE) for way, name in names.items()}
    async with AsyncExitStack() as stack:
        gateway = Gateway([handler.cluster.url], config=configuration(policies) if policies else None)
        stack.callback(gateway.stop)
        await asyncio.to_thread(gateway.start)
        url = gateway.target_url
        await caller.cluster.create_external_endpoint(names[WITH], url(names[WITH]))
        await caller.cluster.create_external_endpoint(names[WITHOUT], handler.cluster.direct_url(targets[WITHOUT]))

        healthy = {way: Calls(caller.client, names[way], HEALTHY, rate=rate) for way in (WITH, WITHOUT)}
        limit = lasts + patience
        failing = [Calls(caller.client, names[way], FAILING, ALWAYS, rate, limit) for way in (WITH, WITHOUT)]
        raw_healthy = RawCalls(url(names[RAW]), HEALTHY, rate=rate)
        raw_failing = RawCalls(url(names[RAW]), FAILING, ALWAYS.__dict__, rate=rate)
        states: dict[str, set[float]] = defaultdict(set)
        watcher = asyncio.create_task(watch(gateway, names[RAW], states))
        async with AsyncExitStack() as traffic:
            for one in (*healthy.values(), *failing, raw_healthy, raw_failing):
                await traffic.enter_async_context(one)
            await asyncio.sleep(lasts)
        watcher.cancel()
        ended = await asyncio.gather(*[one.settle(patience) for one in healthy.values()])
        for calls in failing:
            await calls.abandon()
        columns = {
            way: Column(await Attempts.read(caller.cluster, names[way], successes(operations)), operations)
            for way, operations in zip(healthy, ended, strict=True)
        }
        raw = RawColumn(raw_healthy.answers, raw_failing.answers, states)
        return Result(columns, raw, failures_row(await asyncio.to_thread(gateway.metrics)))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20, help="calls a second of each operation of each endpoint")
    parser.add_argument("--lasts", type=float, default=60, help="seconds of calls")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for operations at the end")
    parser.add_argument("--plain", action="store_true", help="a gateway without policies")
    options = parser.parse_args()
    print(f"{options.rate:.0f} calls a second of each operation, {options.lasts:.0f} s long", flush=True)
    busy = Busy()
    async with two_sites() as (caller, handler):
        policies = "" if options.plain else POLICIES
        result = await run(caller, handler, options.rate, options.lasts, options.patience, policies)
    print(f"{busy}\n\n{table(result.columns())}")


if __name__ == "__main__":
    script(main())
