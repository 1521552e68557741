"""What the experiments share: two clusters with workers, a gateway's configuration, and being a script."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

from temporalio.client import Client
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from harness.caller import caller_worker
from harness.cluster import NEWEST, Cluster
from harness.gateway import binary
from harness.http import Metrics
from harness.processes import alive, end_on_signals, stop_everything
from harness.service import Journal, handler_worker
from harness.world import HANDLER_QUEUE, Site

WITH, WITHOUT, PARKED = "with the gateway", "directly", "with parking"


def quiet() -> Runtime:
    """For SDK clients and workers that would log what an experiment does to them on purpose."""
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(TelemetryFilter("ERROR", "ERROR"))))


@asynccontextmanager
async def two_sites(version: str = NEWEST) -> AsyncIterator[tuple[Site, Site]]:
    """A caller's cluster of this version, and a handler's cluster of the newest, each with a worker."""
    runtime = quiet()
    async with AsyncExitStack() as stack:
        clusters = [Cluster("caller", version), Cluster("handler")]
        for cluster in clusters:
            stack.callback(cluster.stop)
            cluster.launch()
        sites = []
        for cluster in clusters:
            await asyncio.to_thread(cluster.await_ready)
            sites.append(Site(cluster, await Client.connect(cluster.address, runtime=runtime), Journal()))
        await stack.enter_async_context(caller_worker(sites[0].client))
        await stack.enter_async_context(handler_worker(sites[1].client, HANDLER_QUEUE, sites[1].journal))
        yield sites[0], sites[1]


def gateway_rows(metrics: Metrics, *endpoints: str) -> dict[str, str]:
    """What the gateway did of its own accord, all in all or for some endpoints."""

    def count(name: str, label: str) -> str:
        found: dict[str, float] = {}
        for labels, value in metrics.rows(name):
            if value and (not endpoints or labels.get("endpoint") in endpoints):
                found[labels.get(label, "")] = found.get(labels.get(label, ""), 0) + value
        told = ", ".join(f"{n:.0f} {kind}" for kind, n in sorted(found.items()))
        return f"{sum(found.values()):.0f}" + (f" ({told})" if told else "")

    return {
        "retries by the gateway": count("nexus_gateway_retries_total", "on"),
    }


def failures_row(metrics: Metrics) -> dict[str, str]:
    """Failures that the gateway made itself, by reason."""
    reasons = [(labels["reason"], n) for labels, n in metrics.rows("nexus_gateway_failures_total") if n]
    return {"failures of the gateway's making": ", ".join(f"{n:.0f} {reason}" for reason, n in reasons) or "0"}


def say_what_is_measured() -> None:
    """Which gateway this is: a binary may be built anew between two runs that are to be compared."""
    path = binary()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    dated = datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")
    print(f"gateway {path}, file of {dated}, sha256 {digest}", flush=True)


def script(main: Coroutine[Any, Any, None]) -> None:
    """Runs an experiment as a program. When it fails, it shows what the servers said; nothing is left running."""

    async def guarded() -> int:
        try:
            say_what_is_measured()
            await main
            return 0
        except Exception:
            traceback.print_exc()
            for child in alive():
                print(f"\nThe last lines of {child.name}:\n{child.tail()}")
            return 1

    logging.disable(logging.CRITICAL)  # handlers fail on purpose; their worker would log that
    end_on_signals()
    status = 1
    try:
        status = asyncio.run(guarded())
    except KeyboardInterrupt:
        status = 130
    stop_everything()
    sys.exit(status)
