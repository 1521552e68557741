"""Asynchronous operations whose completions have to come home while everything on their way breaks.

Two clusters know nothing but the gateway. While operations are started and completed, the gateway is killed and started
again every few seconds, a new key is put before the old ones twice, and the caller's cluster takes no completions for
a while. Afterwards every operation must have ended at its caller, once, with its own result. With two gateways in a
row, both are killed, at different times, and both get new keys.

A handler is asked again where an answer was lost, for the same operation. The caller's histories, the completions that
its cluster counts and the operations that the handlers saw tell whether anything was done twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHandle
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from harness.caller import Outcome, Plan, begin
from harness.calls import in_groups
from harness.columns import Busy, latency_rows, seconds, table
from harness.fenced import Fenced, RelayingGateway, external_target
from harness.relay import WAYS
from harness.service import Job

from .setting import quiet, script

ONE, TWO = "one gateway", "two in a row"
PREFIX = "EVENT_TYPE_NEXUS_OPERATION_"


@dataclass(frozen=True)
class Trouble:
    """What happens to the gateways and to the caller's cluster. Times are seconds."""

    lasts: float
    """For so long gateways are killed."""
    lives: tuple[float, float]
    """How long a gateway lives at least and at most."""
    away_after: float
    away_for: float
    """When the caller's cluster goes, and for how long."""
    way: str
    rotations: int = 2
    seed: int = 0


@dataclass
class Happened:
    """What was done to them."""

    kills: int = 0
    rotations: int = 0
    away: float = 0.0


@dataclass
class Ended:
    """One operation as its caller's history has it."""

    own: bool
    """It ended with its own result, by a completion."""
    events: dict[str, int]
    """Kind → how many events of that kind."""
    lag: float
    """From the start of the job to the end of the operation, less what the job took: the completion's way."""

    @property
    def once(self) -> bool:
        return self.own and self.events == {"SCHEDULED": 1, "STARTED": 1, "COMPLETED": 1}


@dataclass
class Column:
    """What one way came to."""

    ended: list[Ended]
    missing: int
    """Operations that had not ended when patience did."""
    handled: int
    """Different operations that the handler's cluster was asked to start."""
    asked: int
    """How often it was asked."""
    happened: Happened
    accepted: dict[str, float] = field(default_factory=dict)
    """Completions that reached the caller's cluster, by how it answered. Of all ways that ran together."""

    @property
    def count(self) -> int:
        return len(self.ended) + self.missing

    @property
    def right(self) -> int:
        return sum(1 for one in self.ended if one.once)

    def wrong(self) -> list[Ended]:
        """Some of those that did not end as they should."""
        return [one for one in self.ended if not one.once][:5]

    def rows(self) -> dict[str, str]:
        answers = ", ".join(f"{n:.0f} {outcome}" for outcome, n in sorted(self.accepted.items()))
        return {
            "operations": f"{self.count}",
            "  ended once, with their own result": f"{self.right}",
            "  ended in another way": f"{len(self.ended) - self.right}",
            "  not ended": f"{self.missing}",
            **latency_rows([one.lag for one in self.ended], "way home of a completion"),
            "starts that reached the handler": f"{self.asked} (of {self.handled} operations)",
            "completions at the caller's cluster": answers or "-",
            "kills of a gateway": f"{self.happened.kills}",
            "new keys": f"{self.happened.rotations}",
            "caller's cluster away for": seconds(self.happened.away),
        }


class Run:
    """Operations one way, and what is done to the gateways on it."""

    def __init__(self, fenced: Fenced, gateways: Sequence[RelayingGateway], endpoint: str, target: str) -> None:
        self.gateways = gateways
        self._fenced, self._endpoint, self._target = fenced, endpoint, target
        self._handles: list[WorkflowHandle[Any, Outcome]] = []
        self._jobs: list[Job] = []

    async def start(self, count: int, rate: float, takes: tuple[float, float], chance: random.Random) -> None:
        """Starts so many operations at this rate; each job takes its own time."""
        client, began = self._fenced.main.caller.client, time.monotonic()
        for number in range(count):
            job = Job(f"{self._endpoint} {number}", after=round(chance.uniform(*takes), 3))
            self._jobs.append(job)
            plan = Plan(self._endpoint, "job", job, schedule_to_close=None)
            self._handles.append(await begin(client, plan))
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))

    async def settle(self, until: float) -> tuple[list[Ended], int]:
        """How all of them ended, once they have, and how many have not by then (of `time.monotonic()`)."""
        results = await asyncio.gather(*[self._result(handle, until) for handle in self._handles])
        known = [(h, j, r) for h, j, r in zip(self._handles, self._jobs, results, strict=True) if r is not None]
        looks = [lambda h=h, j=j, r=r: self._look(h, j, r) for h, j, r in known]
        return await in_groups(looks), len(results) - len(known)

    async def _result(self, handle: WorkflowHandle[Any, Outcome], until: float) -> Outcome | None:
        try:
            async with asyncio.timeout(max(1.0, until - time.monotonic())):
                return await handle.result()
        except TimeoutError:
            with contextlib.suppress(RPCError):  # it may have ended meanwhile, too late
                await handle.terminate()
            return None

    async def _look(self, handle: WorkflowHandle[Any, Outcome], job: Job, outcome: Outcome) -> Ended:
        history = [event async for event in handle.fetch_history_events()]
        kinds = Counter(kind for event in history if (kind := nexus_kind(event)))
        times = {nexus_kind(event): event.event_time.ToMicroseconds() / 1e6 for event in history}
        own = outcome.result == f"done: {job.text}" and outcome.asynchronous and not outcome.error
        lag = times.get("COMPLETED", 0.0) - times.get("STARTED", 0.0) - job.after
        return Ended(own, dict(kinds), max(0.0, lag))

    def handled(self) -> tuple[int, int]:
        """Different operations, and starts, that reached the handlers."""
        seen = [call for call in self._fenced.main.handler.journal.calls if call.endpoint == self._target]
        return len({call.request_id for call in seen}), len(seen)


def nexus_kind(event: HistoryEvent) -> str:
    """What happened to an operation by an event; empty for other events."""
    name = EventType.Name(event.event_type)
    return name.removeprefix(PREFIX) if name.startswith(PREFIX) else ""


async def killing(gateway: RelayingGateway, trouble: Trouble, chance: random.Random, happened: Happened) -> None:
    """Kills a gateway and starts it again, on its port, until the trouble is over."""
    until = time.monotonic() + trouble.lasts
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(*trouble.lives))
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start, False)
        happened.kills += 1


async def rotating(gateways: Sequence[RelayingGateway], trouble: Trouble, happened: Happened) -> None:
    """New keys at even distances. Whether a gateway reads them at a start or by reloading is left to chance."""
    for _ in range(trouble.rotations):
        await asyncio.sleep(trouble.lasts / (trouble.rotations + 1))
        for gateway in gateways:
            gateway.rotate()
        happened.rotations += 1


async def going_away(fenced: Fenced, trouble: Trouble, happened: Happened) -> None:
    """The caller's cluster takes no completions for a while."""
    await asyncio.sleep(trouble.away_after)
    began = time.monotonic()
    try:
        await asyncio.to_thread(fenced.relay.take_away, trouble.way)
        await asyncio.sleep(trouble.away_for)
    finally:
        await asyncio.to_thread(fenced.relay.heal)
        happened.away = time.monotonic() - began


async def run(
    fenced: Fenced,
    trouble: Trouble,
    count: int,
    rate: float,
    takes: tuple[float, float],
    patience: float,
    ways: Sequence[str] = (ONE, TWO),
) -> dict[str, Column]:
    """`count` operations each way, at `rate` a second each, whose jobs take between `takes` seconds. `patience`:
    seconds after the trouble by which all must have ended. The ways run at once and share the trouble."""
    before = await completions(fenced)
    async with AsyncExitStack() as stack:
        runs = {way: await prepare(fenced, way, stack) for way in ways}
        gateways = list({id(g): g for run in runs.values() for g in run.gateways}.values())
        chance, happened = random.Random(trouble.seed), Happened()
        seeds = [chance.random() for _ in (*gateways, *runs)]
        until = time.monotonic() + trouble.lasts + patience
        await asyncio.gather(
            *[run.start(count, rate, takes, random.Random(seeds.pop())) for run in runs.values()],
            *[killing(gateway, trouble, random.Random(seeds.pop()), happened) for gateway in gateways],
            rotating(gateways, trouble, happened),
            going_away(fenced, trouble, happened),
        )
        settled = await asyncio.gather(*[one.settle(until) for one in runs.values()])
        columns = {
            way: Column(ended, missing, *one.handled(), happened)
            for (way, one), (ended, missing) in zip(runs.items(), settled, strict=True)
        }
    after = await completions(fenced)
    for column in columns.values():
        column.accepted = {outcome: after[outcome] - before.get(outcome, 0) for outcome in after}
    return columns


async def prepare(fenced: Fenced, way: str, stack: AsyncExitStack) -> Run:
    """An endpoint that is reached this way."""
    lane, name = fenced.main, f"completions-{uuid.uuid4().hex[:8]}"
    target = await lane.handler.cluster.create_worker_endpoint(name, "handlers")
    gateways = [fenced.gateway]
    if way == TWO:
        front = RelayingGateway({})
        front.define(name, external_target(fenced.gateway.target_url(name)))
        stack.callback(front.stop)
        await asyncio.to_thread(front.start)
        gateways.insert(0, front)
    await lane.caller.cluster.create_external_endpoint(name, gateways[0].target_url(name))
    return Run(fenced, gateways, name, target.name)


async def completions(fenced: Fenced) -> dict[str, float]:
    """The completions that the caller's cluster was sent, by outcome; its figures come late."""
    await asyncio.sleep(1.5)
    metrics = await asyncio.to_thread(fenced.main.caller.cluster.metrics)
    found: dict[str, float] = {}
    for labels, value in metrics.rows("nexus_completion_requests"):
        found[labels.get("outcome", "")] = found.get(labels.get("outcome", ""), 0) + value
    return found


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=1000, help="operations each way")
    parser.add_argument("--rate", type=float, default=12, help="operations started a second")
    parser.add_argument("--takes", type=float, nargs=2, default=(0.5, 40), help="shortest and longest job")
    parser.add_argument("--lives", type=float, nargs=2, default=(2, 6), help="shortest and longest life of a gateway")
    parser.add_argument("--lasts", type=float, default=120, help="seconds during which gateways are killed")
    parser.add_argument("--away-after", type=float, default=40, help="seconds until the caller's cluster goes")
    parser.add_argument("--away-for", type=float, default=30, help="seconds until it comes back")
    parser.add_argument("--way", choices=WAYS, default="drop", help="how it goes")
    parser.add_argument("--patience", type=float, default=900, help="seconds to wait for operations at the end")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--hurried", action="store_true", help="servers that try again after seconds, not minutes")
    parser.add_argument("--only", choices=(ONE, TWO), help="one of the two ways")
    options = parser.parse_args()
    trouble = Trouble(
        options.lasts, tuple(options.lives), options.away_after, options.away_for, options.way, seed=options.seed
    )
    print(f"{options.operations} operations each way, {trouble}", flush=True)
    Runtime.set_default(quiet())
    columns: dict[str, Column] = {}
    for way in [options.only] if options.only else (ONE, TWO):
        busy = Busy()
        fenced = Fenced({"caller": "1.32.0", "handler": "1.32.0"}, hurried=options.hurried)
        try:
            await fenced.start()
            takes = tuple(options.takes)
            columns |= await run(fenced, trouble, options.operations, options.rate, takes, options.patience, [way])
        finally:
            await fenced.stop()
        print(f"{way}: {busy}", flush=True)
    print("\n" + table({way: column.rows() for way, column in columns.items()}))
    lost = [way for way, column in columns.items() if column.right != column.count or column.handled != column.count]
    if lost:
        wrong = {way: columns[way].wrong() for way in lost}
        raise RuntimeError(f"not every operation ended once with its own result: {wrong}")


if __name__ == "__main__":
    script(main())
