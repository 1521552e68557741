"""What the gateway counts is what was done."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from harness.gateway import Gateway
from harness.http import Answer, send
from harness.service import Job, Trouble
from harness.traffic import start
from harness.world import Lane


async def test_the_counters_match_the_requests(newest: Lane, gateways: Callable[..., Gateway]) -> None:
    gateway = gateways([newest.handler.cluster.url]).start()
    name = newest.pair.target.name
    url = gateway.target_url(name)
    token = f"counted-{uuid.uuid4()}"

    def cancel() -> Answer:
        return send("POST", f"{url}/RealityService/by_hand/cancel", b"", {"Nexus-Operation-Token": token})

    def requests() -> list[int]:
        answers = [start(url, "echo", number) for number in range(5)]
        answers.append(start(url, "job", Job("counted").__dict__))
        answers.append(start(url, "operation_error", "failed"))
        answers.append(start(url, "operation_error", "canceled"))
        answers += [start(url, "handler_error", Trouble("NOT_FOUND", 9).__dict__) for _ in range(2)]
        answers.append(start(url, "handler_error", Trouble("UNAVAILABLE", 9).__dict__))
        answers += [start(url, "by_hand", token), cancel(), cancel()]
        answers += [start(gateway.target_url("nobody"), "echo", 1) for _ in range(3)]
        return [answer.status for answer in answers]

    statuses = await asyncio.to_thread(requests)
    assert statuses == [200] * 5 + [201, 424, 424, 404, 404, 503, 201, 202, 202] + [404] * 3

    metrics = gateway.metrics()

    def count(operation: str, method: str, outcome: str) -> float:
        labels = {"operation": operation, "method": method, "outcome": outcome, "service": "RealityService"}
        return metrics.sum("nexus_gateway_requests_total", endpoint=name, **labels)

    assert count("echo", "start", "succeeded") == 5
    assert count("job", "start", "started") == 1
    assert count("operation_error", "start", "operation_failed") == 1
    assert count("operation_error", "start", "operation_canceled") == 1
    assert count("handler_error", "start", "handler_error") == 3
    assert count("by_hand", "start", "started") == 1
    assert count("by_hand", "cancel", "cancel_accepted") == 2
    assert metrics.sum("nexus_gateway_requests_total", endpoint="_unknown", outcome="gateway_error") == 3
    assert metrics.sum("nexus_gateway_requests_total") == len(statuses)
    assert metrics.sum("nexus_gateway_handler_errors_total", endpoint=name, type="NOT_FOUND") == 2
    assert metrics.sum("nexus_gateway_handler_errors_total", endpoint=name, type="UNAVAILABLE") == 1
    assert metrics.sum("nexus_gateway_failures_total", reason="unknown_endpoint") == 3
    assert metrics.sum("nexus_gateway_failures_total") == 3
    assert metrics.sum("nexus_gateway_request_duration_seconds_count", endpoint=name) == len(statuses) - 3
    assert metrics.sum("nexus_gateway_upstream_duration_seconds_count", endpoint=name) == len(statuses) - 3
    assert metrics.sum("nexus_gateway_requests_in_flight") == 0
    assert metrics.sum("nexus_gateway_connections_total") == len(statuses)
    assert metrics.sum("nexus_gateway_upstream_connects_total", result="ok") >= 1
    assert metrics.sum("nexus_gateway_registry_endpoints") >= 1
    assert metrics.has("nexus_gateway_build_info")


async def test_a_caller_that_leaves_is_counted_as_gone(newest: Lane, gateways: Callable[..., Gateway]) -> None:
    gateway = gateways([newest.handler.cluster.url]).start()
    key = f"left-{uuid.uuid4()}"
    host, port = gateway.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = f"/nexus/endpoints/{newest.pair.target.name}/services/RealityService/held"
    body = f'"{key}"'.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    while not newest.handler.journal.of("start", key):
        await asyncio.sleep(0.02)
    assert gateway.metrics().sum("nexus_gateway_requests_in_flight") == 1
    writer.close()
    while gateway.metrics().sum("nexus_gateway_requests_total", outcome="abandoned") < 1:
        await asyncio.sleep(0.02)
    assert gateway.metrics().sum("nexus_gateway_requests_in_flight") == 0
    newest.handler.journal.gate(key).set()


async def test_what_the_gateway_forwards_is_what_the_cluster_received(newest: Lane) -> None:
    """The handler's cluster counts Nexus requests as well, for each endpoint."""
    name = (await newest.new_pair()).target.name
    label = name.replace("-", "_")  # as the server writes it
    url = newest.gateway.target_url(name)

    async def received() -> float:
        return (await asyncio.to_thread(newest.handler.cluster.metrics)).sum("nexus_requests", nexus_endpoint=label)

    for number in range(20):
        assert (await asyncio.to_thread(start, url, "echo", number)).status == 200
    while await received() < 20:  # the cluster brings its figures up to date every now and then
        await asyncio.sleep(0.1)
    assert await received() == 20
    assert newest.gateway.metrics().sum("nexus_gateway_requests_total", endpoint=name) == 20
