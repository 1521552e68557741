"""Neither side can tell the gateway from a direct connection: what the handler sees and what the caller gets back."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest

from harness.http import Answer, send
from harness.service import Call, Job, Trouble
from harness.traffic import start
from harness.world import Lane

OWN_TO_A_REQUEST = {"nexus-request-id", "nexus-link", "request-timeout", "operation-timeout"}
"""Headers whose values differ between any two requests: ids, and the time that is left."""

HEADERS = {
    "X-Tenant": "blue; v=1, green",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Tracestate": "vendor=1",
    "Baggage": "k=v",
}
"""What a caller workflow adds to an operation."""

FOR_THE_GATEWAY = {"Authorization": "Bearer for-the-gateway", "Cookie": "a=b; c=d", "Nexus-Gateway-Caller": "forged"}
"""What ends at the gateway, unless the target is said to get it."""


async def observed(lane: Lane, **plan: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the handler saw of an operation through the gateway, and of the same directly."""
    via, direct = await asyncio.gather(
        lane.call("observe", {"a": 1}, **plan),
        lane.call("observe", {"a": 1}, pair=lane.pair.__class__(lane.pair.direct, "", lane.pair.target), **plan),
    )
    assert via.result and direct.result, (via, direct)
    return via.result, direct.result


def comparable(headers: dict[str, str]) -> dict[str, str]:
    return {name: "…" if name in OWN_TO_A_REQUEST else value for name, value in headers.items()}


async def test_the_handler_sees_the_headers_of_a_direct_request(lane: Lane) -> None:
    via, direct = await observed(lane, headers=HEADERS | FOR_THE_GATEWAY)
    for name in FOR_THE_GATEWAY:
        assert name.lower() not in via["headers"]
        direct["headers"].pop(name.lower(), None)
    assert comparable(via["headers"]) == comparable(direct["headers"])
    assert via["headers"]["x-tenant"] == HEADERS["X-Tenant"]


async def test_the_handler_sees_the_endpoint_links_and_deadline_of_a_direct_request(lane: Lane) -> None:
    via, direct = await observed(lane)
    for seen in (via, direct):
        seen["links"] = [type for type, _ in seen["links"]]
    for what in ("endpoint", "task_queue", "has_deadline", "links", "callback_url", "method", "operation"):
        assert via[what] == direct[what], what
    assert re.fullmatch(r"[0-9a-f-]{36}", via["request_id"])


async def test_the_callback_headers_cross_except_the_one_that_would_misroute_a_completion(lane: Lane) -> None:
    via, direct = await observed(lane)
    direct["callback_headers"].pop("source", None)  # names the caller's cluster; a handler's cluster might trust it
    assert via["callback_headers"].keys() == direct["callback_headers"].keys()


async def test_a_cancel_request_shows_the_handler_the_headers_of_a_direct_one(lane: Lane) -> None:
    token = f"seen-{uuid.uuid4()}"
    await lane.compare("by_hand", token, cancel="wait_requested", headers=HEADERS)
    first, second = lane.handler.journal.of("cancel", token)

    def shown(call: Call) -> dict[str, str]:
        return {name: value for name, value in comparable(call.headers).items() if name != "nexus-callback-source"}

    assert shown(first) == shown(second)


@pytest.mark.parametrize("limit", ["1m30s", "39.996143338s", "90500ms", "1h2m3.5s"])
async def test_an_operation_timeout_in_the_text_form_of_older_callers_is_no_error(newest: Lane, limit: str) -> None:
    def both() -> list[Answer]:
        urls = newest.gateway.target_url(newest.pair.target.name), newest.handler.cluster.direct_url(newest.pair.target)
        return [start(url, "observe", **{"Operation-Timeout": limit}) for url in urls]

    via, direct = await asyncio.to_thread(both)
    assert (via.status, direct.status) == (200, 200)
    for answer in (via, direct):  # the handler's server shows its worker what is left, in a form of its own
        assert re.fullmatch(r"\d+ms", answer.json()["headers"]["operation-timeout"])


async def test_older_callers_run_operations_with_a_time_limit(lane: Lane) -> None:
    outcome = await lane.compare("job", Job("in time"), schedule_to_close=92.5)
    assert outcome.result == "done: in time"


REQUESTS: dict[str, tuple[str, Any]] = {
    "a result": ("echo", {"a": [1, 2.5, "ü"]}),
    "an operation token": ("job", {"text": "x", "then": "complete"}),
    "a failed operation": ("operation_error", "failed"),
    "a canceled operation": ("operation_error", "canceled"),
    "a handler error": ("handler_error", Trouble("NOT_FOUND", 99).__dict__),
    # Not UNAVAILABLE, which the gateway itself tries once more.
    "a retryable handler error": ("handler_error", Trouble("INTERNAL", 99).__dict__),
    "an error whose retryability was turned around": ("handler_error", Trouble("INTERNAL", 99, False).__dict__),
    "an unknown operation": ("no_such_operation", None),
    "an input that does not fit": ("job", [1, 2]),
}


@pytest.mark.parametrize("support", ["", "true"], ids=["old failures", "new failures"])
@pytest.mark.parametrize("what", REQUESTS)
async def test_the_answer_on_the_wire_is_the_one_of_the_handlers_server(newest: Lane, what: str, support: str) -> None:
    """Status, body and every header but the framing are equal, byte for byte, to those of a direct request."""
    operation, input = REQUESTS[what]
    headers = {"Temporal-Nexus-Failure-Support": support} if support else {}

    def both() -> list[Answer]:
        urls = newest.gateway.target_url(newest.pair.target.name), newest.handler.cluster.direct_url(newest.pair.target)
        # The same request id gives the same token; errors that count tries get one each.
        same = str(uuid.uuid4())
        ids = [same, same] if operation == "job" else [str(uuid.uuid4()), str(uuid.uuid4())]
        return [
            start(url, operation, input, **{"Nexus-Request-Id": id}, **headers)
            for url, id in zip(urls, ids, strict=True)
        ]

    via, direct = [tidy(answer) for answer in await asyncio.to_thread(both)]
    assert via == direct


def tidy(answer: Answer) -> tuple[int, dict[str, str], str]:
    """An answer without its date, and without the framing, which belongs to the connection."""
    own = {"date", "transfer-encoding", "content-length"}
    headers = {name: value for name, value in answer.headers.items() if name not in own}
    return answer.status, headers, answer.body.decode()


async def test_an_endpoint_answers_to_its_id_as_well_as_to_its_name(newest: Lane) -> None:
    by_id = await asyncio.to_thread(start, newest.gateway.target_url(newest.pair.target.id), "echo", "x")
    assert (by_id.status, by_id.body) == (200, b'"x"')


async def test_a_name_that_no_cluster_knows_is_refused_for_good(newest: Lane) -> None:
    via = await asyncio.to_thread(start, newest.gateway.target_url("no-such-endpoint"), "echo", "x")
    assert (via.status, via.headers["nexus-gateway-failure"]) == (404, "unknown_endpoint")
    assert via.headers["nexus-request-retryable"] == "false"
    failure = via.json()
    assert failure["metadata"]["type"] == "nexus.HandlerError"
    assert failure["details"] == {"type": "NOT_FOUND", "retryableOverride": False}


async def test_the_caller_of_a_name_that_no_cluster_knows_is_told_so(lane: Lane) -> None:
    name = f"nowhere-{lane.caller.cluster.name}-{lane.handler.cluster.name}"
    await lane.caller.cluster.create_external_endpoint(name, lane.gateway.target_url("no-such-endpoint"))
    outcome = await lane.call("echo", "x", pair=lane.pair.__class__(name, "", lane.pair.target))
    assert outcome.cause("HandlerError")["type"] == "NOT_FOUND"
    assert "no-such-endpoint" in str(outcome.error)


async def test_the_same_request_id_starts_one_workflow_only(newest: Lane) -> None:
    def twice() -> list[Answer]:
        url = newest.gateway.target_url(newest.pair.target.name)
        id = str(uuid.uuid4())
        return [start(url, "job", Job("once").__dict__, **{"Nexus-Request-Id": id}) for _ in range(2)]

    first, second = await asyncio.to_thread(twice)
    assert (first.status, second.status) == (201, 201)
    assert first.json()["token"] == second.json()["token"]


async def test_a_start_without_a_request_id_gets_one(newest: Lane) -> None:
    def bare() -> Answer:
        url = f"{newest.gateway.target_url(newest.pair.target.name)}/RealityService/observe"
        return send("POST", url, b"1", {"Content-Type": "application/json"})

    seen = (await asyncio.to_thread(bare)).json()
    assert seen["request_id"] != ""
