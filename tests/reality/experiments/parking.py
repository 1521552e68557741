"""Operations that are parked while everything breaks: none may be lost, and no workflow may run twice.

Callers start synchronous and workflow-backed operations by turns. Meanwhile the gateways are killed and started again
every few seconds, the handler's cluster comes and goes, and a database that several gateways share is restarted in the
middle, by a crash or in order. Afterwards every operation must have ended at its caller, once, with its own result.

The id of the workflow behind an operation comes from the operation's input, so that the handler's cluster tells how
often each one ran. A synchronous handler may be asked again where its answer was lost: that is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import WorkflowHandle
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from harness.caller import Outcome, Plan, begin
from harness.calls import in_groups
from harness.cluster import NEWEST, VERSIONS
from harness.columns import Busy, latency_rows, table
from harness.fenced import Fenced
from harness.parking import BREAKER, RETRY, TOKEN, ParkingGateway, parking_rows, token_of
from harness.postgres import Postgres
from harness.relay import WAYS, Relay
from harness.service import Job, named_id
from harness.world import HANDLER_QUEUE, Site

from .completions import nexus_kind
from .outage import Outage, suffer
from .setting import quiet, script

FILE, POSTGRES = "file", "postgres"
SYNC, ASYNC = "answer", "named"

SLOWEST = 1.5
"""Seconds that a handler takes at most to answer: the longer, the more answers are lost on their way."""

POLICIES = f"""
policies:
  - park: on
    {RETRY}
    {BREAKER}
"""


@dataclass(frozen=True)
class Trouble:
    """What happens to the gateways, to their database and to the handler's cluster. Times are seconds."""

    lasts: float
    """For so long gateways are killed, and the cluster comes and goes."""
    lives: tuple[float, float]
    """How long a gateway lives at least and at most."""
    dead: tuple[float, float]
    """For how long it is not started again, at least and at most."""
    stays: tuple[float, float]
    """How long the cluster is there at a time, at least and at most."""
    away: tuple[float, float]
    """How long it is away."""
    crash: bool = True
    """Whether the database crashes or is restarted in order."""
    seed: int = 0

    def outages(self, chance: random.Random) -> list[Outage]:
        """Until the time is over. Every way comes once before any comes again."""
        found: list[Outage] = []
        ways: list[str] = []
        left = self.lasts
        while left > 0:
            ways = ways or chance.sample(WAYS, len(WAYS))
            found.append(Outage(ways.pop(), chance.uniform(*self.stays), chance.uniform(*self.away)))
            left -= found[-1].after + found[-1].lasts
        return found


@dataclass
class Ended:
    """One operation as its caller's history has it."""

    operation: str
    outcome: Outcome
    expected: str
    events: dict[str, int]
    """Kind → how many events of that kind."""
    token: str
    """What its caller was given; empty where it was answered by its result."""
    took: float

    @property
    def right(self) -> bool:
        """It ended once, with its own result."""
        once = {"SCHEDULED": 1, "COMPLETED": 1} | ({"STARTED": 1} if self.token else {})
        return self.outcome.result == self.expected and not self.outcome.error and self.events == once

    @property
    def parked(self) -> bool:
        """Sure for a synchronous operation: nobody else gives it a token. Others have one of a gateway either way."""
        return self.operation == SYNC and self.token.startswith(TOKEN)


@dataclass
class Result:
    """What it came to."""

    ended: list[Ended]
    missing: list[str]
    """Caller workflows that had not ended when patience did."""
    runs: Counter[str]
    """Workflow behind an operation → how often it ran."""
    again: Counter[str]
    """By operation, how many starts reached a handler that had reached it before."""
    kills: int
    outages: int
    restarts: int
    unfinished: float
    """Operations that the gateways still have at the end."""
    gateways: list[dict[str, str]] = field(default_factory=list)
    """What each gateway says of itself since its last start."""

    @property
    def count(self) -> int:
        return len(self.ended) + len(self.missing)

    @property
    def right(self) -> int:
        return sum(1 for one in self.ended if one.right)

    @property
    def parked(self) -> int:
        return sum(1 for one in self.ended if one.parked)

    @property
    def asynchronous(self) -> int:
        return sum(1 for one in self.ended if one.operation == ASYNC)

    def wrong(self) -> list[Any]:
        """Some of those that did not end as they should."""
        return [*[one for one in self.ended if not one.right][:5], *self.missing[:5]]

    def problems(self) -> list[str]:
        """What must not be."""
        twice = {id: n for id, n in self.runs.items() if n != 1}
        found = {
            f"{self.count - self.right} operations did not end once with their own result": self.count != self.right,
            f"workflows that ran more than once: {twice}": bool(twice),
            f"{len(self.runs)} workflows ran for {self.asynchronous}": len(self.runs) != self.asynchronous,
            f"{self.unfinished:.0f} operations are still parked": self.unfinished != 0,
        }
        return [problem for problem, there in found.items() if there]

    def rows(self) -> dict[str, str]:
        synchronous = len(self.ended) - self.asynchronous
        return {
            "operations": f"{self.count}",
            "  ended once, with their own result": f"{self.right}",
            "  ended in another way": f"{len(self.ended) - self.right}",
            "  not ended": f"{len(self.missing)}",
            "synchronous ones that were parked": f"{self.parked} (of {synchronous})",
            "workflows that ran once": f"{sum(1 for n in self.runs.values() if n == 1)} (of {self.asynchronous})",
            "workflows that ran more than once": f"{sum(1 for n in self.runs.values() if n > 1)}",
            "synchronous handlers asked again": f"{self.again[SYNC]}",
            "starts of a workflow asked for again": f"{self.again[ASYNC]}",
            **latency_rows([one.took for one in self.ended]),
            "kills of a gateway": f"{self.kills}",
            "outages of the handler's cluster": f"{self.outages}",
            "restarts of the database": f"{self.restarts}",
            "still parked at the end": f"{self.unfinished:.0f}",
        }


class Run:
    """The gateways, the way to the handler's cluster, and the operations."""

    def __init__(self, fenced: Fenced, caller: str, gateways: int, store: str) -> None:
        """`caller`: the cluster of that name. `store`: what the gateways keep parked operations in."""
        self.name = f"parking-{uuid.uuid4().hex[:8]}"
        self.caller: Site = fenced.sites[caller]
        self.handler: Site = fenced.sites["handler"]
        self.postgres = Postgres() if store == POSTGRES else None
        self.relay = Relay(self.handler.cluster)
        self.gateways: list[ParkingGateway] = []
        self._ports = fenced.spare[:gateways]
        self._operations: list[tuple[WorkflowHandle[Any, Outcome], str, str]] = []
        self._exit = AsyncExitStack()
        self.kills = 0

    async def __aenter__(self) -> Run:
        await self.handler.cluster.create_worker_endpoint(self.name, HANDLER_QUEUE)
        async with AsyncExitStack() as stack:
            if self.postgres:
                stack.callback(self.postgres.stop)
                await asyncio.to_thread(self.postgres.start)
            stack.callback(self.relay.stop)
            stack.callback(self.handler.cluster.resume)
            await asyncio.to_thread(self.relay.start)
            clusters = {self.handler.cluster.name: self.relay.url}
            store = self.postgres.url if self.postgres else ""
            for number, port in enumerate(self._ports):
                first = self.gateways[0] if self.gateways else None
                gateway = ParkingGateway(clusters, port, POLICIES, store, first)
                self.gateways.append(gateway)
                stack.callback(gateway.stop)
                await asyncio.to_thread(gateway.start)
                url = gateway.target_url(self.name)
                await self.caller.cluster.create_external_endpoint(self._endpoint(number), url)
            self._exit = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def _endpoint(self, number: int) -> str:
        return f"{self.name}-{number}"

    async def start(self, count: int, rate: float, takes: tuple[float, float], chance: random.Random) -> None:
        """Starts so many operations at this rate, by way of each gateway in turn; each job takes its own time."""
        began = time.monotonic()
        for number in range(count):
            operation = (SYNC, ASYNC)[number % 2]
            text = f"{self.name} {number}"
            job = Job(text, after=round(chance.uniform(*takes), 3), answers=round(chance.uniform(0, SLOWEST), 3))
            expected = f"done: {text}"
            endpoint = self._endpoint(number // 2 % len(self.gateways))
            plan = Plan(endpoint, operation, job, schedule_to_close=None)
            self._operations.append((await begin(self.caller.client, plan), operation, expected))
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))

    async def kill(self, gateway: ParkingGateway, trouble: Trouble, chance: random.Random) -> None:
        """Kills a gateway and starts it again, on its port, until the trouble is over."""
        until = time.monotonic() + trouble.lasts
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(*trouble.lives))
            await asyncio.to_thread(gateway.kill)
            await asyncio.sleep(chance.uniform(*trouble.dead))
            await asyncio.to_thread(gateway.start, False)
            self.kills += 1

    async def restart_database(self, trouble: Trouble) -> None:
        """Once, in the middle."""
        if self.postgres:
            await asyncio.sleep(trouble.lasts / 2)
            await asyncio.to_thread(self.postgres.restart, trouble.crash)

    async def settle(self, until: float) -> tuple[list[Ended], list[str]]:
        """How all of them ended, once they have, and which have not by then (of `time.monotonic()`)."""
        results = await asyncio.gather(*[self._result(handle, until) for handle, _, _ in self._operations])
        known = [(*one, result) for one, result in zip(self._operations, results, strict=True) if result is not None]
        looks = [lambda one=one: self._look(*one) for one in known]
        missing = [one[0].id for one, result in zip(self._operations, results, strict=True) if result is None]
        return await in_groups(looks), missing

    async def _result(self, handle: WorkflowHandle[Any, Outcome], until: float) -> Outcome | None:
        try:
            async with asyncio.timeout(max(1.0, until - time.monotonic())):
                return await handle.result()
        except TimeoutError:
            with contextlib.suppress(RPCError):  # it may have ended meanwhile, too late
                await handle.terminate()
            return None

    async def _look(
        self, handle: WorkflowHandle[Any, Outcome], operation: str, expected: str, outcome: Outcome
    ) -> Ended:
        history = [event async for event in handle.fetch_history_events()]
        kinds = Counter(kind for event in history if (kind := nexus_kind(event)))
        began = {nexus_kind(event): event for event in history}
        token = token_of(began["STARTED"]) if "STARTED" in began else ""
        took = history[-1].event_time.ToMicroseconds() / 1e6 - history[0].event_time.ToMicroseconds() / 1e6
        return Ended(operation, outcome, expected, dict(kinds), token, took)

    async def runs(self) -> Counter[str]:
        """Workflow behind an operation → how often it ran, as the handler's cluster lists them."""
        query = f"WorkflowId STARTS_WITH '{named_id(self.name)}-'"
        return Counter([run.id async for run in self.handler.client.list_workflows(query)])

    def again(self) -> Counter[str]:
        """By operation, how many starts reached a handler that had reached it before."""
        seen = Counter(
            (call.operation, call.request_id)
            for call in self.handler.journal.calls
            if call.endpoint == self.name and call.method == "start"
        )
        return sum((Counter({operation: n - 1}) for (operation, _), n in seen.items()), Counter())

    async def unfinished(self, until: float) -> float:
        """What the gateways still have, once that is nothing or the time (of `time.monotonic()`) is over."""
        while True:
            metrics = [await gateway.read() for gateway in self.gateways]
            # With a shared store each one counts all of them.
            left = max(metric.sum("nexus_gateway_parked") for metric in metrics)
            if left == 0 or time.monotonic() > until:
                return left
            await asyncio.sleep(0.5)


async def run(
    fenced: Fenced,
    trouble: Trouble,
    count: int,
    rate: float,
    takes: tuple[float, float],
    patience: float,
    gateways: int = 1,
    store: str = FILE,
    caller: str = "caller",
) -> Result:
    """`count` operations at `rate` a second, whose jobs take between `takes` seconds. `patience`: seconds after the
    trouble by which all must have ended."""
    async with Run(fenced, caller, gateways, store) as one:
        chance = random.Random(trouble.seed)
        outages = trouble.outages(chance)
        until = time.monotonic() + max(trouble.lasts, count / rate) + patience
        await asyncio.gather(
            one.start(count, rate, takes, random.Random(chance.random())),
            *[one.kill(gateway, trouble, random.Random(chance.random())) for gateway in one.gateways],
            suffer(one.relay, outages),
            one.restart_database(trouble),
        )
        ended, missing = await one.settle(until)
        unfinished = await one.unfinished(time.monotonic() + 30)
        told = [parking_rows(await gateway.read()) for gateway in one.gateways]
        restarts = 1 if one.postgres else 0
        runs, again = await one.runs(), one.again()
        return Result(ended, missing, runs, again, one.kills, len(outages), restarts, unfinished, told)


def clusters(version: str) -> dict[str, str]:
    """The clusters that are needed for a caller of this version."""
    return {"caller": version, "handler": NEWEST}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=15, help="operations started a second")
    parser.add_argument("--takes", type=float, nargs=2, default=(0.2, 15), help="shortest and longest job")
    parser.add_argument("--gateways", type=int, default=1, help="how many, each on a port of its own; at most 4")
    parser.add_argument("--store", choices=(FILE, POSTGRES), default=FILE, help="where they keep parked operations")
    parser.add_argument("--lives", type=float, nargs=2, default=(2, 8), help="shortest and longest life of a gateway")
    parser.add_argument("--dead", type=float, nargs=2, default=(0, 2), help="how long it is gone")
    parser.add_argument("--stays", type=float, nargs=2, default=(3, 12), help="how long the handler's cluster is there")
    parser.add_argument("--away", type=float, nargs=2, default=(2, 15), help="how long it is away")
    parser.add_argument("--orderly", action="store_true", help="the database is restarted in order; it crashes else")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for operations at the end")
    parser.add_argument("--caller", choices=VERSIONS, default=NEWEST, help="version of the caller's server")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    if options.gateways > 1 and options.store == FILE:
        parser.error("several gateways have to share a store: --store postgres")
    spans = {name: tuple(getattr(options, name)) for name in ("lives", "dead", "stays", "away")}
    trouble = Trouble(options.operations / options.rate, **spans, crash=not options.orderly, seed=options.seed)
    print(
        f"{options.operations} operations by {options.caller}, {options.gateways} gateways with a {options.store}, "
        f"{trouble}",
        flush=True,
    )
    Runtime.set_default(quiet())
    busy = Busy()
    fenced = Fenced(clusters(options.caller))
    try:
        await fenced.start()
        result = await run(
            fenced,
            trouble,
            options.operations,
            options.rate,
            tuple(options.takes),
            options.patience,
            options.gateways,
            options.store,
        )
    finally:
        await fenced.stop()
    columns = {f"{options.gateways} x {options.store}": result.rows()}
    columns |= {f"gateway {i + 1}, since its last start": told for i, told in enumerate(result.gateways)}
    print(f"{busy}\n\n{table(columns)}")
    if problems := result.problems():
        raise RuntimeError(f"{problems}: {result.wrong()}")


if __name__ == "__main__":
    script(main())
