"""Hostile clients beside a well-behaved one on the same port: what does it notice, and what does the gateway need?

Each attack (`experiments.attacks`, in a process of its own) runs for a while, in turns with a quiet time as long; the
client sends at the same rate all the while, over connections that it keeps and over new ones. The handler behind the
gateway always answers at once. All is on one machine, so a flood costs the client CPU time that it would not cost
elsewhere: the attackers have the lowest priority, and what they still take is part of the ratio. With `--elsewhere` each
attack also goes to another gateway on the machine, in turns with that on the client's: what the client notices of it is the
machine's share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from harness.columns import Busy, percentile, table
from harness.gateway import Gateway, configuration
from harness.http import Metrics
from harness.polite import Polite, Timed
from harness.processes import Child
from harness.stub import REALITY, RESULT, start_stub

from .attacks import ATTACKS, ATTACKS2, PATH
from .setting import script

SIZES = {"idle": 10_000, "slow-heads": 500, "slow-bodies": 500, "slow-reads": 100, "gzip-bombs": 20, "flood": 50, "zero-windows": 5}
"""Connections of an attack where it is not the usual number."""
USUAL = 20
RATES = {"flood": 2_000, "gzip-bombs": 200}
"""Connections and requests a second; frames otherwise."""
FRAMES = 20_000

SETTLES = 1.0
"""Seconds after which nothing of an attack is left."""

SOURCES = {"idle": 20}
"""Addresses that an attack comes from where it is not the usual one: a thousand connections of one are the most."""

SERVER = {"max_connections": 15000}
"""What holds for the data port beside the defaults."""

KINDS = ("total", "refused_total", "reaped_total", "cut_total")
METRICS = (*(f"connections_{kind}" for kind in KINDS), "failures_total")


def settings(handler: str, large: str, server: Mapping[str, object], http2: bool) -> Path:
    """The gateway's configuration: an endpoint for everyone, and one that only gives large answers."""
    listener = '{ address: "127.0.0.1:0"' + (", http2: true" if http2 else "") + " }"
    return configuration(
        f"listen: [{listener}]\n"
        f"server: {json.dumps(dict(server))}\n"
        f"endpoints:\n"
        f"  shop: {{ external: {{ url: 'http://{handler}' }} }}\n"
        f"  large: {{ external: {{ url: 'http://{large}' }} }}\n"
    )


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


@dataclass
class Found:
    """What one attack came to, over all rounds."""

    quiet: list[Timed] = field(default_factory=list)
    abused: list[Timed] = field(default_factory=list)
    elsewhere: list[Timed] = field(default_factory=list)
    """While another gateway was attacked."""
    before: int = 0
    """Resident bytes of the gateway."""
    most: int = 0
    after: int = 0
    left: float = 0
    """Connections that are open some seconds after the attack, the client's included."""
    attackers: dict[str, int] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    """By how much the gateway's own counters grew."""

    def failures(self) -> list[str]:
        return [answer.failed for answer in self.quiet + self.abused + self.elsewhere if answer.failed]

    def rows(self) -> dict[str, str]:
        def of(answers: Iterable[Timed], fresh: bool, percent: float) -> float:
            return percentile([answer.took for answer in answers if answer.fresh == fresh], percent)

        count = len(self.quiet) + len(self.abused) + len(self.elsewhere)
        rows = {"good requests": f"{count}", "  failed": f"{len(self.failures())}"}
        for what, fresh in (("kept connections", False), ("new connections", True)):
            for percent in (50, 99):
                quiet, abused = of(self.quiet, fresh, percent), of(self.abused, fresh, percent)
                ratio = abused / quiet if quiet else 0
                told = f"{milliseconds(quiet)} → {milliseconds(abused)} (×{ratio:.1f})"
                if self.elsewhere:
                    elsewhere = of(self.elsewhere, fresh, percent)
                    share = abused / elsewhere if elsewhere else 0
                    told += f"; elsewhere {milliseconds(elsewhere)} (×{share:.1f} of that)"
                rows[f"{what}, p{percent}"] = told
        told = [f"{size / (1 << 20):.0f}" for size in (self.before, self.most, self.after)]
        rows["resident MiB: before, most, after"] = ", ".join(told)
        rows["connections left"] = f"{self.left:.0f}"
        rows["attackers"] = ", ".join(f"{n} {what}" for what, n in sorted(self.attackers.items()))
        rows["gateway"] = ", ".join(f"{n:.0f} {what}" for what, n in self.counted.items())
        return rows


def milliseconds(time: float) -> str:
    return f"{time * 1000:.1f} ms"


def counters(metrics: Metrics) -> dict[str, float]:
    """The gateway's counters of connections and failures, by name and reason."""
    found: dict[str, float] = {}
    for name in METRICS:
        for labels, value in metrics.rows(f"nexus_gateway_{name}"):
            key = " ".join([name, *labels.values()])
            found[key] = found.get(key, 0) + value
    return found


class Abuse:
    """A gateway before a handler, and a client that goes on all the while."""

    def __init__(
        self,
        server: Mapping[str, object] = SERVER,
        http2: bool = False,
        rate: float = 50,
        elsewhere: bool = False,
    ) -> None:
        self._server, self._http2, self._rate, self._elsewhere = server, http2, rate, elsewhere
        self._exit = AsyncExitStack()
        self.gateway: Gateway
        self._other: Gateway | None = None
        self._client: Polite

    async def __aenter__(self) -> Abuse:
        self.gateway = await self._start()
        if self._elsewhere:
            self._other = await self._start()
        client = Polite(self.gateway.address, PATH, self._rate, expected=RESULT)
        self._client = await self._exit.enter_async_context(client)
        return self

    async def _start(self) -> Gateway:
        addresses = []
        # The one that only attackers ask for belongs to them.
        for aside in (False, True):
            stub, address = await asyncio.to_thread(start_stub, aside)
            self._exit.callback(stub.stop)
            addresses.append(address)
        gateway = Gateway(config=settings(*addresses, self._server, self._http2), listen="")
        self._exit.callback(gateway.stop)
        await asyncio.to_thread(gateway.start)
        return gateway

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    async def _watch(self, found: Found) -> None:
        while True:
            found.most = max(found.most, memory(self.gateway.pid))
            await asyncio.sleep(0.05)

    async def attack(
        self, name: str, lasts: float, rounds: int = 1, size: int = 0, rate: float = 0, sources: int = 0
    ) -> Found:
        """Quiet and abused in turns, `lasts` seconds each."""
        found = Found(before=memory(self.gateway.pid))
        before = counters(await asyncio.to_thread(self.gateway.metrics))
        size, rate = size or SIZES.get(name, USUAL), rate or RATES.get(name, FRAMES)
        how = [f"--seconds={lasts}", f"--size={size}", f"--rate={rate}", f"--sources={sources or SOURCES.get(name, 1)}"]
        for _ in range(rounds):
            found.quiet += await self._quiet(lasts)
            watch = asyncio.create_task(self._watch(found))
            answers, did = await self._attacked(self.gateway, name, how)
            watch.cancel()
            found.abused += answers
            for what, count in did.items():
                found.attackers[what] = found.attackers.get(what, 0) + count
            if self._other:
                await self._quiet(SETTLES)
                found.elsewhere += (await self._attacked(self._other, name, how))[0]
                await self._quiet(SETTLES)
        found.left = await self._settled()
        found.after = memory(self.gateway.pid)
        after = counters(await asyncio.to_thread(self.gateway.metrics))
        grown = {key: value - before.get(key, 0) for key, value in after.items()}
        found.counted = {key: value for key, value in grown.items() if value}
        return found

    async def _quiet(self, lasts: float) -> list[Timed]:
        since = time.monotonic()
        await asyncio.sleep(lasts)
        return await self._client.between(since, time.monotonic())

    async def _attacked(self, gateway: Gateway, name: str, how: list[str]) -> tuple[list[Timed], dict[str, int]]:
        """What the client got while that gateway was attacked, and what the attackers did."""
        command = [sys.executable, "-m", "experiments.attacks", name, gateway.address, *how]
        attackers = Child(f"attack-{name}", command, env={"PYTHONPATH": str(REALITY)})
        await asyncio.to_thread(attackers.ready, lambda: True if "begun" in attackers.output() else None)
        since = time.monotonic()
        await asyncio.to_thread(attackers.wait)
        answers = await self._client.between(since, time.monotonic())
        if not attackers.output().strip().endswith("}"):
            raise RuntimeError(f"the attackers failed:\n{attackers.tail()}")
        return answers, json.loads(attackers.output().splitlines()[-1])

    async def _settled(self) -> float:
        """Connections that are open once those of the attackers, who are gone, have been noticed to be."""
        for _ in range(50):
            left = (await asyncio.to_thread(self.gateway.metrics)).sum("nexus_gateway_connections")
            if left <= 6:
                break
            await asyncio.sleep(0.1)
        return left


def names(http2: bool, only: Sequence[str] = ()) -> list[str]:
    every = [*ATTACKS, *(ATTACKS2 if http2 else ())]
    return [name for name in every if not only or name in only]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lasts", type=float, default=10, help="seconds of an attack, and of the quiet before it")
    parser.add_argument("--rounds", type=int, default=3, help="how often both take turns")
    parser.add_argument("--rate", type=float, default=50, help="good requests a second of each of five senders")
    parser.add_argument("--sources", type=int, default=0, help="addresses that attackers come from")
    parser.add_argument("--elsewhere", action="store_true", help="attack another gateway, too")
    parser.add_argument("--http1", action="store_true", help="leave out the attacks over HTTP/2")
    parser.add_argument("--only", nargs="*", default=[], choices=[*ATTACKS, *ATTACKS2], help="these attacks")
    options = parser.parse_args()
    busy, failed = Busy(), 0
    for name in names(not options.http1, options.only):
        # A gateway for each: what one attack leaves behind is not the next one's.
        http2, rate = not options.http1, options.rate
        async with Abuse(http2=http2, rate=rate, elsewhere=options.elsewhere) as abuse:
            found = await abuse.attack(name, options.lasts, options.rounds, sources=options.sources)
        failed += len(found.failures())
        print(f"\n{table({name: found.rows()})}", flush=True)
        for failure in found.failures()[:5]:
            print(f"  {failure}", flush=True)
    print(f"\n{busy}; {failed} good requests failed", flush=True)


if __name__ == "__main__":
    script(main())
