"""Ten times the rate limit, for seconds, from a Temporal caller: once with shaping, once without.

With shaping, what is over the limit waits its turn in the gateway. Without, it is refused by 429 at once, which a
Temporal caller takes for a failure: its breaker then blacks the endpoint out. The two come one after the other, since
the caller's cluster would otherwise spend on the second what the first is to be measured with.

A caller's cluster has 100 requests on their way to an endpoint at a time. So no more than that wait in the gateway, and
a limit of 20 a second serves the last of them after 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass

from harness.calls import Calls, Operation, successes
from harness.columns import Attempts, Busy, latency_rows, table
from harness.gateway import Gateway, configuration
from harness.world import HANDLER_QUEUE, Site

from .setting import failures_row, script, two_sites

SHAPED, REFUSED = "with shaping", "without (429 at once)"
MAX_WAIT = {SHAPED: "7500ms", REFUSED: "0s"}

POLICY = """
  - match: {{ endpoint: {endpoint} }}
    rate_limit: {{ per: [endpoint], rate: {rate}/s, burst: 10, max_wait: {max_wait}, max_queue: 1000 }}
"""


@dataclass
class Column:
    """What one burst came to."""

    attempts: Attempts
    operations: list[Operation]
    lasted: float
    refusals: float
    """Requests that the gateway answered by 429."""
    failures: dict[str, str]

    @property
    def served(self) -> int:
        return successes(self.operations)

    def rows(self, now: float) -> dict[str, str]:
        return {
            "operations": f"{len(self.operations)}",
            "  started per second": f"{len(self.operations) / self.lasted:.0f}",
            "  served": f"{self.served}",
            **latency_rows([operation.latency(now) for operation in self.operations]),
            **self.attempts.rows(),
            "refused by the gateway's limit": f"{self.refusals:.0f}",
            **self.failures,
        }


async def run(
    caller: Site, handler: Site, limit: int, times: float, lasts: float, patience: float
) -> dict[str, Column]:
    """For each way `times` the limit for `lasts` seconds, then `patience` seconds for what has not ended."""
    columns = {}
    for way, max_wait in MAX_WAIT.items():
        name = f"burst-{uuid.uuid4().hex[:8]}"
        await handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE)
        policy = POLICY.format(endpoint=name, rate=limit, max_wait=max_wait)
        async with AsyncExitStack() as stack:
            gateway = Gateway([handler.cluster.url], config=configuration(f"policies:\n{policy}"))
            stack.callback(gateway.stop)
            await asyncio.to_thread(gateway.start)
            await caller.cluster.create_external_endpoint(name, gateway.target_url(name))
            calls = Calls(caller.client, name, rate=limit * times)
            began = time.monotonic()
            async with calls:
                await asyncio.sleep(lasts)
            lasted = time.monotonic() - began
            operations = await calls.settle(patience)
            attempts = await Attempts.read(caller.cluster, name, successes(operations))
            metrics = await asyncio.to_thread(gateway.metrics)
            refused = metrics.sum("nexus_gateway_failures_total", reason="rate_limited")
            columns[way] = Column(attempts, operations, lasted, refused, failures_row(metrics))
    return columns


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=20, help="requests a second")
    parser.add_argument("--times", type=float, default=10, help="so many times the limit is called")
    parser.add_argument("--lasts", type=float, default=3, help="seconds of the burst")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for operations at the end")
    options = parser.parse_args()
    print(f"{options.times:.0f} times {options.limit} calls a second for {options.lasts:.0f} s", flush=True)
    busy = Busy()
    async with two_sites() as (caller, handler):
        columns = await run(caller, handler, options.limit, options.times, options.lasts, options.patience)
    now = time.time()
    print(f"{busy}\n\n{table({way: column.rows(now) for way, column in columns.items()})}")


if __name__ == "__main__":
    script(main())
