"""Clusters that know only the gateway: asynchronous operations end as they would with a direct way back."""

from __future__ import annotations

import asyncio
import base64
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
import temporalio.api.workflowservice.v1 as api
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import CallbackState

from harness.caller import LARGE, Plan, begin, call, events
from harness.completion import Receiver, complete
from harness.fenced import BACK, Fenced, RelayingGateway, external_target, worker_target
from harness.http import Answer
from harness.service import SERVICE, Call, Job
from harness.traffic import start
from harness.world import Lane, Site

TOKEN = "temporal-callback-token"


def unique(what: str) -> str:
    return f"{what}-{uuid.uuid4()}"


async def started(site: Site, token: str, method: str = "start") -> Call:
    """What a handler saw of the operation `by_hand` or `early` of this name, once it is there."""
    while not (calls := site.journal.of(method, token)):
        await asyncio.sleep(0.02)
    return calls[0]


@pytest.fixture
def newest_edge(fenced: Fenced) -> Lane:
    """The newest server on both sides, behind their fence."""
    return fenced.main


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


# --- every pair of versions ---


async def test_a_direct_way_back_is_refused_by_the_handlers_server(edge: Lane) -> None:
    """What the other tests stand on: without the gateway there is no way."""
    outcome = await call(edge.caller.client, Plan(edge.pair.direct, "job", Job("x"), schedule_to_close=8))
    assert outcome.result is None
    told = " ".join(cause["message"] for cause in outcome.error)
    assert "url does not match any configured callback address" in told
    assert f":{edge.caller.cluster.callback_port}/" in told
    # Requests themselves may pass: only completions have to go another way.
    assert (await call(edge.caller.client, Plan(edge.pair.direct, "echo", "x"))).result == "x"


async def test_a_result_comes_back(edge: Lane) -> None:
    outcome = await edge.call("job", Job("seven"))
    assert (outcome.result, outcome.asynchronous) == ("done: seven", True), outcome


async def test_a_failure_comes_back(edge: Lane) -> None:
    outcome = await edge.call("job", Job("no stock", then="fail"))
    assert outcome.kinds == ["NexusOperationError", "ApplicationError"]
    failure = outcome.cause("ApplicationError")
    assert (failure["type"], failure["message"], failure["details"]) == (
        "JobFailed",
        "the job failed",
        [{"why": "no stock"}],
    )


async def test_a_cancellation_comes_back(edge: Lane) -> None:
    outcome = await edge.call("job", Job("never", then="wait"), cancel="wait_completed")
    assert outcome.asynchronous
    assert outcome.kinds == ["NexusOperationError", "CancelledError"]


async def test_a_completion_may_come_before_the_answer_to_its_start(edge: Lane) -> None:
    key = unique("early")
    outcome = await edge.call("early", key)
    assert not edge.handler.journal.gate(key).is_set(), "the handler has not answered yet"
    edge.handler.journal.gate(key).set()
    assert (outcome.result, outcome.asynchronous) == (f"done: {key}", True), outcome


@pytest_asyncio.fixture
async def moving(edge: Lane, fenced: Fenced) -> AsyncIterator[tuple[str, Site, Callable[[], Any]]]:
    """An endpoint defined by the gateway: its name at the caller, where it will be moved to, and how to move it."""
    name = unique("moving")
    other = fenced.sites["old30" if edge.handler is not fenced.sites["old30"] else "handler"]
    await fenced.gateway.apply(lambda: fenced.gateway.define(name, worker_target(edge.handler)))
    await edge.caller.cluster.create_external_endpoint(name, fenced.gateway.target_url(name))

    async def move() -> None:
        await fenced.gateway.apply(lambda: fenced.gateway.define(name, worker_target(other)))

    yield name, other, move


async def test_a_cancel_request_goes_where_the_operation_was_started_even_after_a_retarget(
    edge: Lane, moving: tuple[str, Site, Callable[[], Any]]
) -> None:
    endpoint, other, move = moving
    before, kept, moved = unique("before"), unique("kept"), unique("moved")

    async def run(token: str) -> Any:
        plan = Plan(endpoint, "by_hand", token, cancel="wait_requested", cancel_on_signal=True)
        return await begin(edge.caller.client, plan)

    first, second = await run(before), await run(kept)
    await asyncio.gather(started(edge.handler, before), started(edge.handler, kept))
    await first.signal("cancel_now")
    await started(edge.handler, before, "cancel")
    await move()
    third = await run(moved)
    await started(other, moved)
    for handle in (second, third):
        await handle.signal("cancel_now")
    ended = [(await handle.result()).kinds for handle in (first, second, third)]
    assert all("CancelledError" in kinds for kinds in ended), ended

    def canceled(site: Site) -> list[str]:
        tokens = (before, kept, moved)
        return [token for token in tokens if site.journal.of("cancel", token)]

    assert (canceled(edge.handler), canceled(other)) == ([before, kept], [moved])


async def test_a_result_of_nearly_two_megabytes_comes_back(edge: Lane) -> None:
    outcome = await edge.call("job", Job("0123456789", times=LARGE // 10))
    assert outcome.result == "done: " + "0123456789" * (LARGE // 10)


@pytest.mark.parametrize("length", [1, 3000, 4096])
async def test_operation_tokens_of_every_length_that_temporal_allows_work(newest_edge: Lane, length: int) -> None:
    """One that leaves no room for what the gateway adds passes as it is."""
    token = uuid.uuid4().hex.ljust(length, "x")[:length]
    outcome = await newest_edge.call("by_hand", token, cancel="wait_requested")
    assert outcome.asynchronous and "CancelledError" in outcome.kinds
    assert len(newest_edge.handler.journal.of("cancel", token)) == 1


# --- what each side gets to see ---


async def test_the_handler_sees_no_address_namespace_or_workflow_of_the_caller_in_its_callback(edge: Lane) -> None:
    key = unique("hidden")
    handle = await begin(edge.caller.client, Plan(edge.pair.via, "by_hand", key))
    seen = await started(edge.handler, key)
    assert seen.callback_url is not None
    assert re.fullmatch(rf"{re.escape(edge.gateway.url)}/nexus/callback/[A-Za-z0-9_.~-]+", seen.callback_url)
    assert len(seen.callback_url) <= 1000
    assert TOKEN in seen.callback_headers and "source" not in seen.callback_headers
    shown = [seen.callback_url, *seen.callback_headers.values()]
    secrets = [str(edge.caller.cluster.callback_port), "default", handle.id, handle.first_execution_run_id or "-"]
    for text in shown:
        for form in (text.encode(), *decoded(text)):
            assert not [secret for secret in secrets if secret.encode() in form], form
    answer = await asyncio.to_thread(complete, seen, "by hand")
    assert answer.status in range(200, 300), answer
    assert (await handle.result()).result == "by hand"


def decoded(text: str) -> list[bytes]:
    """What any part of a text is as Base64: of a random text it is nonsense."""
    parts = [part[: len(part) // 4 * 4] for part in re.findall(r"[A-Za-z0-9_+/-]{16,}", text)]
    return [base64.urlsafe_b64decode(part.replace("+", "-").replace("/", "_")) for part in parts]


async def test_links_lead_from_each_side_to_the_other(edge: Lane) -> None:
    handle = await begin(edge.caller.client, Plan(edge.pair.via, "job", Job("linked")))
    assert (await handle.result()).result == "done: linked"
    [scheduled] = await events(handle, "scheduled")
    [began] = await events(handle, "started")
    job = f"job-{scheduled.nexus_operation_scheduled_event_attributes.request_id}"
    assert job in {link.workflow_event.workflow_id for link in began.links}
    [seen] = [c for c in edge.handler.journal.calls if f"job-{c.request_id}" == job]
    assert any(handle.id in url for _, url in seen.links), seen.links


async def test_the_trace_and_the_headers_of_a_start_come_back_on_its_completion(
    edge: Lane, receiver: Receiver
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    more = {
        "Nexus-Callback-Traceparent": trace,
        "Nexus-Callback-Tracestate": "vendor=1",
        "Nexus-Callback-Own": "blue; v=1",
        "Nexus-Callback-Temporal-Callback-Token": '{"v":1,"d":"the caller\'s own"}',
    }
    url = f"{edge.gateway.target_url(edge.pair.target.name)}"
    answer = await asyncio.to_thread(start_with_callback, url, receiver.url, Job("traced").__dict__, more)
    assert answer.status == 201, answer
    while not receiver.received:
        await asyncio.sleep(0.02)
    [got] = receiver.received
    assert got.path == "/completions?of=%C3%BCs&x=1"
    assert got.headers["traceparent"] == [trace]
    assert got.headers["tracestate"] == ["vendor=1"]
    assert got.headers["own"] == ["blue; v=1"]
    assert got.headers[TOKEN] == ['{"v":1,"d":"the caller\'s own"}']
    assert got.headers["nexus-operation-state"] == ["succeeded"]
    assert got.body == b'"done: traced"'
    assert any("WorkflowEvent" in line for line in got.headers["nexus-link"])
    # The caller knows the operation by one token, whether it learns of it from the answer or from the completion.
    assert got.headers["nexus-operation-token"] == [answer.json()["token"]]


def start_with_callback(url: str, callback: str, input: Any, headers: dict[str, str]) -> Answer:
    return start(url, f"job?callback={quote(callback, safe='')}", input, **headers)


# --- other ways to call ---


async def test_standalone_operations_complete_and_cancel(newest_edge: Lane) -> None:
    nexus = newest_edge.caller.client.create_nexus_client(SERVICE, endpoint=newest_edge.pair.via)
    done = await nexus.start_operation("job", Job("alone"), id=unique("alone"))
    assert await done.result() == "done: alone"
    waits = await nexus.start_operation("job", Job("never", then="wait"), id=unique("alone"))
    await waits.cancel()
    with pytest.raises(Exception) as ended:
        await waits.result()
    assert "cancel" in repr(ended.value.__cause__ or ended.value).lower()


async def test_operations_cross_two_gateways_sealed_twice(
    edge: Lane, fenced: Fenced, front: RelayingGateway
) -> None:
    name = unique("chained")
    await front.apply(lambda: front.define(name, external_target(fenced.gateway.target_url(edge.pair.target.name))))
    await edge.caller.cluster.create_external_endpoint(name, front.target_url(name))
    run = edge.caller.client
    key = unique("chained")
    done, failed, canceled, early = await asyncio.gather(
        call(run, Plan(name, "job", Job("far"))),
        call(run, Plan(name, "job", Job("far", then="fail"))),
        call(run, Plan(name, "job", Job("far", then="wait"), cancel="wait_completed")),
        call(run, Plan(name, "early", key)),
    )
    edge.handler.journal.gate(key).set()
    assert (done.result, done.asynchronous) == ("done: far", True), done
    assert failed.cause("ApplicationError")["type"] == "JobFailed"
    assert canceled.asynchronous and "CancelledError" in canceled.kinds
    assert early.result == f"done: {key}"
    by_hand = unique("chained")
    handle = await begin(run, Plan(name, "by_hand", by_hand))
    seen = await started(edge.handler, by_hand)
    assert seen.callback_url is not None and seen.callback_url.startswith(f"{fenced.gateway.url}/nexus/callback/")
    assert len(seen.callback_url) <= 1000
    assert (await asyncio.to_thread(complete, seen, "by hand")).status in range(200, 300)
    assert (await handle.result()).result == "by hand"


@pytest_asyncio.fixture
async def front() -> AsyncIterator[RelayingGateway]:
    """A second gateway, which no handler's cluster may call."""
    gateway = RelayingGateway({})
    await asyncio.to_thread(gateway.start)
    yield gateway
    await asyncio.to_thread(gateway.stop)


async def test_either_cluster_may_be_the_caller(fenced: Fenced) -> None:
    there, back = fenced.main, fenced.lanes[BACK]
    one, other = await asyncio.gather(there.call("job", Job("there")), back.call("job", Job("back")))
    assert (one.result, other.result) == ("done: there", "done: back")


# --- when something is wrong ---


async def test_the_completion_for_a_caller_that_has_closed_is_told_to_its_sender(edge: Lane) -> None:
    handle = await begin(edge.caller.client, Plan(edge.pair.via, "job", Job("late", then="wait")))
    while not (began := await events(handle, "started")):
        await asyncio.sleep(0.05)
    await handle.terminate()
    job = next(link.workflow_event.workflow_id for link in began[0].links)
    await edge.handler.client.get_workflow_handle(job).cancel()
    request = api.DescribeWorkflowExecutionRequest(namespace="default", execution=WorkflowExecution(workflow_id=job))
    while True:
        described = await edge.handler.client.workflow_service.describe_workflow_execution(request)
        [callback] = described.callbacks
        if callback.state == CallbackState.CALLBACK_STATE_FAILED:
            break
        assert callback.state != CallbackState.CALLBACK_STATE_SUCCEEDED
        await asyncio.sleep(0.05)
    assert callback.attempt == 1, "a caller that is gone is gone: nothing is tried again"
    assert (await edge.call("job", Job("next"))).result == "done: next"


async def test_forged_completions_are_refused_and_the_right_one_still_works(newest_edge: Lane) -> None:
    key = unique("forged")
    handle = await begin(newest_edge.caller.client, Plan(newest_edge.pair.via, "by_hand", key))
    seen = await started(newest_edge.handler, key)
    assert seen.callback_url is not None
    url, _, seal = seen.callback_url.rpartition("/")
    token = seen.callback_headers[TOKEN]

    def forgeries() -> list[tuple[str, int]]:
        tried = {
            **{f"seal changed at {at}": dict(url=f"{url}/{changed(seal, at)}") for at in (9, 30, len(seal) // 2, -2)},
            "seal cut short": dict(url=f"{url}/{seal[:-1]}"),
            "seal made up": dict(url=f"{url}/{base64.urlsafe_b64encode(b'x' * 120).decode()}"),
            "token changed": {TOKEN: changed(token, len(token) // 2)},
            "token of the caller's own form": {TOKEN: '{"v":1,"d":"aGVsbG8="}'},
            "token left out": {TOKEN: None},
            "token used as a seal": dict(url=f"{url}/{token}"),
        }
        return [(what, complete(seen, "forged", **how).status) for what, how in tried.items()]

    told = await asyncio.to_thread(forgeries)
    assert all(status in (400, 403) for _, status in told), told
    assert (await asyncio.to_thread(complete, seen, "right")).status in range(200, 300)
    assert (await handle.result()).result == "right"


async def test_a_completion_waits_for_a_gateway_that_has_not_read_its_key_yet(
    newest_edge: Lane, fenced: Fenced, front: RelayingGateway
) -> None:
    """Any gateway with the keys carries any completion; one that gets them a little later loses none."""
    key = unique("elsewhere")
    handle = await begin(newest_edge.caller.client, Plan(newest_edge.pair.via, "by_hand", key))
    seen = await started(newest_edge.handler, key)
    url = (seen.callback_url or "").replace(fenced.gateway.url, front.url)
    assert (await asyncio.to_thread(complete, seen, "too early", url)).status == 503
    await front.apply(lambda: front.share_keys(fenced.gateway))
    assert (await asyncio.to_thread(complete, seen, "in time", url)).status in range(200, 300)
    assert (await handle.result()).result == "in time"


async def test_a_completion_comes_home_although_its_endpoint_is_gone(newest_edge: Lane, fenced: Fenced) -> None:
    name, key = unique("short-lived"), unique("orphan")
    await fenced.gateway.apply(lambda: fenced.gateway.define(name, worker_target(newest_edge.handler)))
    await newest_edge.caller.cluster.create_external_endpoint(name, fenced.gateway.target_url(name))
    handle = await begin(newest_edge.caller.client, Plan(name, "by_hand", key))
    seen = await started(newest_edge.handler, key)
    await fenced.gateway.apply(lambda: fenced.gateway.undefine(name))
    assert (await asyncio.to_thread(complete, seen, "by hand")).status in range(200, 300)
    assert (await handle.result()).result == "by hand"


def changed(text: str, at: int) -> str:
    """The text with another letter at one place."""
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


async def test_a_completion_that_cannot_be_delivered_now_is_never_refused_for_good(fenced: Fenced) -> None:
    lane, key = fenced.main, unique("unreachable")
    handle = await begin(lane.caller.client, Plan(lane.pair.via, "by_hand", key))
    seen = await started(lane.handler, key)
    await asyncio.to_thread(fenced.relay.take_away, "drop")
    try:
        away = await asyncio.to_thread(complete, seen, "lost?")
    finally:
        await asyncio.to_thread(fenced.relay.heal)
    assert away.status == 503, away
    while (again := await asyncio.to_thread(complete, seen, "not lost")).status == 503:
        await asyncio.sleep(0.1)
    assert again.status in range(200, 300), again
    assert (await handle.result()).result == "not lost"


async def test_a_callback_of_a_cluster_to_itself_is_refused_from_outside(newest_edge: Lane) -> None:
    url = newest_edge.gateway.target_url(newest_edge.pair.target.name)
    answer = await asyncio.to_thread(start_with_callback, url, "temporal://system", Job("x").__dict__, {})
    assert answer.status == 400, answer
    assert answer.json()["details"]["type"] == "BAD_REQUEST"
