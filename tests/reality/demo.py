"""The demo: a caller workflow on one Temporal cluster runs operations on another, through the gateway, by name.

The two clusters know nothing of each other: what each may send completions to is the gateway, and nothing else.
Run it by `make demo`. It ends with status 0 only if every step did what it should; with KEEP=1 in the environment
it stays up until Ctrl-C. Nothing is left running.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import traceback
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from temporalio.client import Client, NexusOperationFailureError
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from harness.caller import Outcome, chain
from harness.cluster import Cluster
from harness.fenced import RelayingGateway
from harness.gateway import Gateway, binary
from harness.http import Metrics
from harness.orders import (
    CALLER_QUEUE,
    HANDLER_QUEUE,
    SERVICE,
    Delivery,
    Order,
    OrderService,
    Shopper,
    Subscription,
)
from harness.processes import alive, end_on_signals, free_port, stop_everything

ENDPOINT, DIRECT = "orders", "orders-direct"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def say(text: str = "") -> None:
    print(text, flush=True)


def heading(number: int, text: str) -> None:
    say()
    say(paint("1", f"{number}. {text}"))


def row(name: str, text: str) -> None:
    say(f"   {name:<10} {text}")


@dataclass
class Expected:
    """How one operation has to end, and what the gateway has to count for it."""

    kind: str
    back: str
    counted: list[tuple[str, str]]


EXPECTED = {
    "quote": Expected("synchronous", "result: 7.50 EUR", [("start", "succeeded")]),
    "place": Expected(
        "asynchronous, a workflow",
        "started; completed by callback: 3 x tea, delivered",
        [("start", "started"), ("complete", "delivered")],
    ),
    "charge": Expected("fails", "operation failed: the card was declined", [("start", "operation_failed")]),
    "refund": Expected(
        "is refused", "handler error UNAUTHORIZED, not retried: only staff may refund", [("start", "handler_error")]
    ),
    "subscribe": Expected(
        "canceled by its caller",
        "started; canceled",
        [("start", "started"), ("complete", "delivered"), ("cancel", "cancel_accepted")],
    ),
}


def told(outcome: Outcome) -> str:
    """How an operation ended, in words."""
    started = "started; " if outcome.asynchronous else ""
    if not outcome.error:
        return started + ("completed by callback: " if started else "result: ") + str(outcome.result)
    cause = outcome.error[1] if len(outcome.error) > 1 else outcome.error[0]
    if cause["kind"] == "CancelledError":
        return started + "canceled"
    if cause["kind"] == "HandlerError":
        retried = "retryable" if cause["retryable"] else "not retried"
        return f"{started}handler error {cause['type']}, {retried}: {cause['message']}"
    return f"{started}operation failed: {cause['message']}"


def counts(metrics: Metrics, operation: str) -> list[tuple[str, str]]:
    """What the gateway counted for an operation: method and outcome, once for each request."""
    found = []
    for labels, value in metrics.rows("nexus_gateway_requests_total"):
        if (labels.get("endpoint"), labels.get("service"), labels.get("operation")) == (ENDPOINT, SERVICE, operation):
            found += [(labels["method"], labels["outcome"])] * int(value)
    return sorted(found, reverse=True)


async def settled(gateway: Gateway) -> Metrics:
    """The gateway's figures. A caller may know of a completion before the gateway has counted it."""
    for _ in range(50):
        metrics = await asyncio.to_thread(gateway.metrics)
        if all(counts(metrics, operation) == expected.counted for operation, expected in EXPECTED.items()):
            break
        await asyncio.sleep(0.1)
    return metrics


async def told_directly(shopper: Client, order: Order) -> str:
    """How the handler's cluster answers an asynchronous operation that would have to complete directly."""
    shop = shopper.create_nexus_client(SERVICE, endpoint=DIRECT)
    limit = timedelta(seconds=10)
    handle = await shop.start_operation("place", order, id="direct", schedule_to_close_timeout=limit)
    try:
        return f"completed: {await handle.result()}"
    except NexusOperationFailureError as error:
        return "; ".join(dict.fromkeys(str(cause["message"]) for cause in chain(error.__cause__)))


def verdict(right: bool) -> str:
    return paint("32", "ok") if right else paint("31", "NOT WHAT IT SHOULD BE")


async def tour(stack: AsyncExitStack) -> bool:
    """Builds everything up, runs the caller workflow, and tells whether all went as it should."""
    say(paint("1", "Nexus Gateway: operations between two Temporal clusters, by the name of an endpoint"))

    heading(1, "Two Temporal clusters start, in memory. Completions may leave them for the gateway only.")
    port = free_port()
    caller, handler = (Cluster(name, allowed=[f"127.0.0.1:{port}"]) for name in ("caller", "handler"))
    for cluster in (caller, handler):
        stack.callback(cluster.stop)
        cluster.launch()
    for cluster in (caller, handler):
        await asyncio.to_thread(cluster.await_ready)
        row(cluster.name, f"Temporal {cluster.version}   gRPC {cluster.address}   HTTP {cluster.url}")
    row("allowed", f"callback.allowedAddresses of both: 127.0.0.1:{port}, where the gateway will be")

    heading(2, "The gateway starts between them.")
    gateway = RelayingGateway({cluster.name: cluster.url for cluster in (caller, handler)}, port)
    stack.callback(gateway.stop)
    await asyncio.to_thread(gateway.start)
    row("$", f"{binary().name} run --listen {gateway.address} --config gateway.yaml")
    for line in gateway.file.read_text().splitlines():
        row("", re.sub("secret: '.*?'", "secret: '...'", line))
    row("listens on", f"{gateway.url}   admin port http://{gateway.admin}")

    heading(3, f"The endpoint `{ENDPOINT}` is registered with both clusters, by the official command line.")
    await handler.create_worker_endpoint(ENDPOINT, HANDLER_QUEUE)
    await caller.create_external_endpoint(ENDPOINT, gateway.target_url(ENDPOINT))
    await caller.create_external_endpoint(DIRECT, handler.direct_url(await handler.find_endpoint(ENDPOINT)))
    create = f"$ temporal operator nexus endpoint create --name {ENDPOINT}"
    row("handler", f"{create} \\\n{'':16}--target-namespace default --target-task-queue {HANDLER_QUEUE}")
    row("caller", f"{create} \\\n{'':16}--target-url {gateway.target_url(ENDPOINT)}")
    row("", f"and, for comparison, `{DIRECT}`, which leads to the handler's cluster without a gateway")

    heading(4, "Workers start: the service on the handler's cluster, the caller workflow on the caller's.")
    quiet = Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(TelemetryFilter("ERROR", "ERROR"))))
    shop = await Client.connect(handler.address, runtime=quiet)
    shopper = await Client.connect(caller.address, runtime=quiet)
    plain = UnsandboxedWorkflowRunner()
    await stack.enter_async_context(
        Worker(
            shop,
            task_queue=HANDLER_QUEUE,
            workflows=[Delivery, Subscription],
            nexus_service_handlers=[OrderService()],
            workflow_runner=plain,
        )
    )
    await stack.enter_async_context(
        Worker(shopper, task_queue=CALLER_QUEUE, workflows=[Shopper], workflow_runner=plain)
    )
    row("handler", f"task queue {HANDLER_QUEUE}: {SERVICE} with {', '.join(EXPECTED)}")
    row("caller", f"task queue {CALLER_QUEUE}: workflow Shopper")

    order = Order("tea", 3)
    heading(5, "Directly, an asynchronous operation has no way back, and the handler's cluster refuses it.")
    refused = await told_directly(shopper, order)
    good = "url does not match any configured callback address" in refused
    say(f"   {'place':<10} -> {DIRECT}/{SERVICE}/place")
    say(f"{'':14}<- {refused}   {verdict(good)}")

    heading(6, f"The workflow Shopper orders {order.count} x {order.item}: each operation crosses the gateway.")
    ended = await asyncio.wait_for(
        shopper.execute_workflow(Shopper.run, args=[ENDPOINT, order], id="shopper", task_queue=CALLER_QUEUE), 120
    )
    metrics = await settled(gateway)
    for operation, expected in EXPECTED.items():
        outcome, counted = ended[operation], counts(metrics, operation)
        right = told(outcome) == expected.back and counted == expected.counted
        good &= right
        say(f"   {operation:<10} -> {ENDPOINT}/{SERVICE}/{operation}   ({expected.kind})")
        say(f"{'':14}<- {told(outcome)}")
        say(f"{'':14}   the gateway counted: {', '.join(' '.join(pair) for pair in counted) or '-'}   {verdict(right)}")

    heading(7, "From the gateway's own metrics: the way there, and the way back.")
    for line in metrics.text.splitlines():
        if line.startswith("nexus_gateway_requests_total") and 'operation="place"' in line:
            say(f"   {line}")
        if line.startswith("nexus_gateway_completion_lag_seconds_") and "_bucket" not in line:
            say(f"   {line}")
    row("more at", f"http://{gateway.admin}/metrics")
    row("caller", f"{caller.address}   HTTP {caller.url}   metrics {caller.metrics_url}")
    row("handler", f"{handler.address}   HTTP {handler.url}   metrics {handler.metrics_url}")

    if os.environ.get("KEEP", "") not in ("", "0"):
        heading(8, "Everything stays up. Try for yourself, and end it with Ctrl-C:")
        say(f"   temporal nexus operation execute --address {caller.address} --endpoint {ENDPOINT} \\")
        again = '{"item":"tea","count":9}'
        say(f"     --service {SERVICE} --operation quote --operation-id mine --input '{again}'")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # Ctrl-C
            say()
    return good


async def main() -> bool:
    """The tour; when it goes wrong, what went wrong is shown together with what the servers said."""
    async with AsyncExitStack() as stack:
        good = False
        try:
            good = await tour(stack)
        except Exception:
            traceback.print_exc()
        if not good:
            for child in alive():
                say(f"\nThe last lines of {child.name}:\n{child.tail()}")
        return good


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # the service refuses on purpose; its worker would log that
    end_on_signals()
    status = 1
    try:
        status = 0 if asyncio.run(main()) else 1
    except KeyboardInterrupt:
        status = 130
    stop_everything()
    say()
    say({0: f"{verdict(True)}: every step did what it should", 130: "interrupted"}.get(status, "the demo failed"))
    sys.exit(status)
