"""Operations that cannot get through now are parked: their callers are told that they run, and they end as they would
have. `make parking` is the long form of the last two tests."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from temporalio.client import WorkflowExecutionStatus

from experiments.parking import FILE, POSTGRES, Result, Trouble, run
from harness.caller import Outcome, Plan, call
from harness.calls import Calls, successes
from harness.columns import Attempts
from harness.completion import Receiver
from harness.fenced import Fenced, external_target
from harness.http import asend
from harness.parking import RETRY, Parking, until
from harness.service import Job
from harness.service import Trouble as Fault
from harness.standalone import Standalone
from harness.traffic import start

CALLERS = {"1.32": "caller", "1.30": "old30", "1.29": "old29"}
"""Version of a caller's server → the cluster that runs it."""

Make = Callable[..., Awaitable[Parking]]


def unique(what: str) -> str:
    return f"{what}-{uuid.uuid4()}"


@pytest_asyncio.fixture
async def make(fenced: Fenced) -> AsyncIterator[Make]:
    """Makes a way through a gateway of its own that parks."""
    async with AsyncExitStack() as stack:

        async def one(*args: Any, queue: str = "handlers", **kwargs: Any) -> Parking:
            way = Parking(fenced, *args, **kwargs)
            stack.push_async_callback(way.stop)
            return await way.start(f"parking-{uuid.uuid4().hex[:8]}", queue)

        yield one


@pytest_asyncio.fixture
async def way(make: Make) -> Parking:
    """Between two clusters of the newest server; every end that can lead to parking does."""
    return await make()


@pytest_asyncio.fixture(params=list(CALLERS), ids=[f"{version} calls" for version in CALLERS])
async def any_caller(request: pytest.FixtureRequest, make: Make) -> Parking:
    """The same with each version as the caller."""
    return await make(CALLERS[request.param])


# --- the target is down ---


async def test_operations_begin_while_the_target_is_down_and_end_when_it_is_back(any_caller: Parking) -> None:
    way = any_caller
    await way.down()
    synchronous, asynchronous = [
        await way.park("echo", {"order": 7}),
        await way.park("job", Job("parked")),
    ]
    await way.gateway.until_parked(2, endpoint=way.pair.target.name, state="waiting")
    assert [await way.asked(handle) for handle in (synchronous, asynchronous)] == [0, 0]
    await way.up()
    assert await synchronous.result() == Outcome(result={"order": 7}, asynchronous=True)
    assert await asynchronous.result() == Outcome(result="done: parked", asynchronous=True)
    assert [await way.asked(handle) for handle in (synchronous, asynchronous)] == [1, 1]
    await way.gateway.until_parked(0)


async def test_operations_that_get_through_are_not_parked(way: Parking) -> None:
    handle = await way.begin("echo", "at once")
    assert await handle.result() == Outcome(result="at once")
    assert (await way.gateway.read()).sum("nexus_gateway_parked_total") == 0


@pytest.mark.parametrize("how", ["drop", "refuse", "stop"])
async def test_however_the_target_goes_nothing_fails_at_the_caller(way: Parking, how: str) -> None:
    """A server that is stopped keeps its connections: it is known to be gone when an attempt has taken too long."""
    await way.down(how)
    handle = await way.park("echo", how)
    await way.up()
    assert (await handle.result()).result == how
    attempts = await Attempts.read(way.caller.cluster, way.pair.via, 1)
    assert (attempts.failed, attempts.blocked) == (0, 0), attempts


async def test_a_start_without_a_callback_is_refused_as_before(way: Parking) -> None:
    await way.down()
    url = way.gateway.target_url(way.pair.target.name)
    answer = await asyncio.to_thread(start, url, "echo", "x")
    assert answer.status == 503 and answer.headers["nexus-gateway-failure"], answer


async def test_the_same_request_is_parked_once_and_gets_the_same_token_again(way: Parking) -> None:
    receiver = Receiver()
    url = way.gateway.target_url(way.pair.target.name)
    operation = f"echo?callback={quote(receiver.url, safe='')}"
    id = str(uuid.uuid4())
    try:
        await way.down()
        first, second = [
            await asyncio.to_thread(start, url, operation, "once", **{"Nexus-Request-Id": id, **CALLBACK_HEADERS})
            for _ in range(2)
        ]
        assert (first.status, second.status) == (201, 201), (first, second)
        assert first.json()["token"] == second.json()["token"]
        await way.gateway.until_parked(1)
        await way.up()
        await until(lambda: receiver.received)
        await way.gateway.until_parked(0)
        [got] = receiver.received
        assert got.path == "/completions?of=%C3%BCs&x=1"
        assert got.body == b'"once"'
        assert got.headers["content-type"] == ["application/json"]
        assert got.headers["nexus-operation-state"] == ["succeeded"]
        assert got.headers["nexus-operation-token"] == [first.json()["token"]]
        assert got.headers["own"] == ["blue; v=1"]
        assert way.handler.journal.tries(id) == 1
    finally:
        receiver.close()


CALLBACK_HEADERS = {"Nexus-Callback-Own": "blue; v=1", "Nexus-Callback-Temporal-Callback-Token": '{"v":1,"d":"x"}'}


# --- how operations end ---


@pytest.mark.parametrize("state", ["failed", "canceled"])
async def test_an_operation_that_its_handler_ends_otherwise_ends_so_after_it_was_parked(
    any_caller: Parking, state: str
) -> None:
    way = any_caller
    direct = await call(way.caller.client, Plan(way.pair.direct, "operation_error", state))
    await way.down()
    handle = await way.park("operation_error", state)
    await way.up()
    parked = await handle.result()
    kind = {"failed": "ApplicationError", "canceled": "CancelledError"}[state]
    assert parked.cause(kind)["message"] == f"ended as {state}"
    assert parked.kinds == direct.kinds
    assert parked.error == direct.error


@pytest.mark.parametrize("type", ["NOT_FOUND", "BAD_REQUEST", "UNAUTHORIZED"])
async def test_an_error_that_is_not_retryable_ends_a_parked_operation_as_it_ends_another(
    way: Parking, type: str
) -> None:
    direct = await call(way.caller.client, Plan(way.pair.direct, "handler_error", Fault(type, 99)))
    await way.down()
    handle = await way.park("handler_error", Fault(type, 99))
    await way.up()
    parked = await handle.result()
    assert parked.cause("HandlerError")["type"] == type
    assert parked.error == direct.error
    assert await way.asked(handle) == 1


async def test_older_callers_are_told_the_error_that_ended_a_parked_operation(any_caller: Parking) -> None:
    way = any_caller
    await way.down()
    handle = await way.park("handler_error", Fault("UNAUTHORIZED", 99))
    await way.up()
    parked = await handle.result()
    assert parked.result is None and parked.asynchronous
    assert "UNAUTHORIZED at try 1" in str(parked.error)


async def test_a_handler_that_fails_for_a_while_is_asked_until_it_succeeds(way: Parking) -> None:
    handle = await way.park("handler_error", Fault("INTERNAL", tries=3))
    assert await handle.result() == Outcome(result=4, asynchronous=True)
    assert await way.asked(handle) == 4


async def test_an_operation_that_waits_longer_than_its_policy_allows_fails(make: Make) -> None:
    way = await make(policies=f"policies:\n  - park: {{ on: [unreachable], max_age: 2s }}\n    {RETRY}\n")
    await way.down()
    outcome = await (await way.park("echo", "too late")).result()
    assert outcome.error and outcome.result is None, outcome
    await way.gateway.until_ended("expired")
    await way.gateway.until_parked(0)


async def test_the_limit_of_the_operation_ends_its_wait(way: Parking) -> None:
    """Its caller has given it up by then by itself."""
    await way.down()
    outcome = await (await way.park("echo", "too late", schedule_to_close=4)).result()
    assert outcome.cause("TimeoutError"), outcome
    await way.gateway.until_parked(0)
    await way.up()
    assert (await (await way.begin("echo", "next")).result()).result == "next"


# --- cancel ---


async def test_an_operation_that_is_canceled_while_it_is_parked_never_reaches_its_target(any_caller: Parking) -> None:
    way = any_caller
    await way.down()
    handle = await way.park("job", Job("never"), cancel="wait_completed", cancel_on_signal=True)
    await handle.signal("cancel_now")
    outcome = await handle.result()
    assert outcome.kinds == ["NexusOperationError", "CancelledError"], outcome
    await way.gateway.until_ended("canceled")
    await way.gateway.until_parked(0)
    await way.up()
    assert (await (await way.begin("echo", "next")).result()).result == "next"
    assert await way.asked(handle) == 0


async def test_an_operation_that_was_parked_and_runs_is_canceled_at_its_target(any_caller: Parking) -> None:
    way = any_caller
    await way.down()
    handle = await way.park("job", Job("never", then="wait"), cancel="wait_completed", cancel_on_signal=True)
    await way.up()
    while not await way.asked(handle):
        await asyncio.sleep(0.05)
    await way.gateway.until_parked(1, state="started")
    await handle.signal("cancel_now")
    outcome = await handle.result()
    assert outcome.kinds == ["NexusOperationError", "CancelledError"], outcome
    job = way.handler.client.get_workflow_handle(f"job-{await way.request_id(handle)}")
    assert (await job.describe()).status == WorkflowExecutionStatus.CANCELED
    await way.gateway.until_parked(0)


async def test_a_cancel_that_meets_the_start_on_its_way_reaches_the_target(way: Parking) -> None:
    """The handler has been asked and has not answered yet when the cancel comes."""
    key = unique("crossing")
    await way.down()
    handle = await way.park("by_slow_hand", key, cancel="wait_requested", cancel_on_signal=True)
    await way.up()
    await until(lambda: way.handler.journal.of("start", key))
    await handle.signal("cancel_now")
    # The caller goes on when the gateway has taken the cancel.
    assert "CancelledError" in (await handle.result()).kinds
    assert not way.handler.journal.of("cancel", key)
    way.handler.journal.gate(key).set()
    await until(lambda: way.handler.journal.of("cancel", key))


async def test_a_completion_may_come_before_the_answer_to_a_parked_start(way: Parking) -> None:
    key = unique("early")
    await way.down()
    handle = await way.park("early", key)
    await way.up()
    assert (await handle.result()).result == f"done: {key}"
    assert not way.handler.journal.gate(key).is_set(), "the handler has not answered yet"
    way.handler.journal.gate(key).set()
    await way.gateway.until_parked(0)


# --- the gateway goes ---


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_gateway_that_is_started_again_finishes_what_was_parked(way: Parking, how: str) -> None:
    await way.down()
    handles = [await way.park("echo", "kept"), await way.park("job", Job("kept"))]
    await asyncio.to_thread(way.gateway.stop if how == "stopped" else way.gateway.kill)
    await asyncio.to_thread(way.gateway.start, False)
    await way.gateway.until_parked(2, state="waiting")
    assert [await way.asked(handle) for handle in handles] == [0, 0]
    await way.up()
    assert [(await handle.result()).result for handle in handles] == ["kept", "done: kept"]
    assert [await way.asked(handle) for handle in handles] == [1, 1]


async def test_a_cancel_reaches_the_target_after_the_gateway_was_killed(way: Parking) -> None:
    await way.down()
    handle = await way.park("job", Job("never", then="wait"), cancel="wait_completed", cancel_on_signal=True)
    await way.up()
    await way.gateway.until_parked(1, state="started")
    await asyncio.to_thread(way.gateway.kill)
    await asyncio.to_thread(way.gateway.start)
    await handle.signal("cancel_now")
    assert (await handle.result()).kinds == ["NexusOperationError", "CancelledError"]
    await way.gateway.until_parked(0)


async def test_a_result_is_delivered_after_its_caller_was_away(fenced: Fenced, way: Parking) -> None:
    """Completions of the cluster `caller` come by a relay."""
    await way.down()
    handle = await way.park("echo", "late")
    await asyncio.to_thread(fenced.relay.take_away, "refuse")
    try:
        await way.up()
        await way.gateway.until_parked(1, state="done")
        await asyncio.to_thread(way.gateway.kill)
        await asyncio.to_thread(way.gateway.start)
        await way.gateway.until_parked(1, state="done")
    finally:
        await asyncio.to_thread(fenced.relay.heal)
    assert (await handle.result()).result == "late"
    assert await way.asked(handle) == 1
    await way.gateway.until_parked(0)


# --- limits ---

SLOW = """
policies:
  - park: { on: [rate_limited] }
    rate_limit: { per: [endpoint], rate: 20/s, burst: 10, max_wait: 0s }
"""


async def test_a_burst_of_ten_times_a_limit_is_served_in_its_time(make: Make) -> None:
    way = await make(policies=SLOW)
    async with Calls(way.caller.client, way.pair.via, rate=200) as calls:
        await asyncio.sleep(1)
    operations = await calls.settle(60)
    assert len(operations) > 100
    assert successes(operations) == len(operations)
    attempts = await Attempts.read(way.caller.cluster, way.pair.via, len(operations))
    assert (attempts.failed, attempts.blocked) == (0, 0), attempts
    assert (await way.gateway.read()).sum("nexus_gateway_parked_total", reason="rate_limited") > 50
    await way.gateway.until_parked(0)


async def test_what_does_not_fit_is_refused_as_before(make: Make) -> None:
    way = await make(policies=f"policies:\n  - park: {{ on: [unreachable], max: 2 }}\n    {RETRY}\n")
    await way.down()
    parked = [await way.park("echo", number) for number in range(2)]
    refused = await way.begin("echo", 2)
    await way.gateway.until_metric("park_refused_total", lambda value: value > 0)
    await way.gateway.until_metric("failures_total", lambda value: value > 0, endpoint=way.pair.target.name)
    await way.up()
    assert [(await handle.result()).result for handle in (*parked, refused)] == [0, 1, 2]


# --- other callers ---


async def test_an_operation_from_the_command_line_is_parked_as_well(way: Parking) -> None:
    await way.down()
    operations = [
        Standalone(way.caller.cluster, way.pair.via, "echo", {"order": 7}),
        Standalone(way.caller.cluster, way.pair.via, "job", {"text": "seven"}),
    ]
    for operation in operations:
        await operation.start()
    await way.gateway.until_parked(2, state="waiting")
    await way.up()
    echoed, done = [await operation.result() for operation in operations]
    assert '{"order":7}' in echoed.replace(" ", "")
    assert "done: seven" in done
    await way.gateway.until_parked(0)


@pytest.mark.parametrize("operation", ["echo", "job"])
async def test_what_nobody_waits_for_any_more_is_forgotten(way: Parking, operation: str) -> None:
    await way.down()
    handle = await way.park(operation, Job("in vain"))
    await handle.terminate()
    await way.up()
    if operation == "echo":
        await way.gateway.until_ended("stale")
    else:
        while not await way.asked(handle):
            await asyncio.sleep(0.05)
    await way.gateway.until_parked(0)
    assert (await (await way.begin(operation, Job("next"))).result()).error == []


async def test_a_cluster_that_calls_itself_through_the_gateway_is_no_exception(make: Make) -> None:
    way = await make("handler", "handler")
    await way.down()
    handles = [await way.park("echo", "myself"), await way.park("job", Job("myself"))]
    await way.up()
    assert [(await handle.result()).result for handle in handles] == ["myself", "done: myself"]


# --- seeing and steering ---


async def test_the_admin_port_lists_what_is_parked(way: Parking) -> None:
    assert await asyncio.to_thread(way.gateway.rows) == []
    await way.down()
    handles = [await way.park("echo", number) for number in range(3)]
    endpoint = way.pair.target.name
    rows = await asyncio.to_thread(way.gateway.rows, endpoint)
    shown = [(row["endpoint"], row["state"], row["reason"]) for row in rows]
    assert shown == [(endpoint, "waiting", "unreachable")] * 3
    assert len({row["id"] for row in rows}) == 3
    assert len(await asyncio.to_thread(way.gateway.rows)) == 3
    assert await asyncio.to_thread(way.gateway.rows, "another") == []
    assert len(await asyncio.to_thread(way.gateway.rows, endpoint, 1)) == 1
    await way.up()
    assert [(await handle.result()).result for handle in handles] == [0, 1, 2]


async def test_an_operator_can_fail_one_or_all_with_a_message(way: Parking) -> None:
    await way.down()
    handles = [await way.park("echo", number) for number in range(3)]
    endpoint = way.pair.target.name
    first = (await asyncio.to_thread(way.gateway.rows, endpoint))[0]["id"]
    message = quote("sorry, not today")
    one = await asyncio.to_thread(way.gateway.post, f"/parked/fail?id={first}&message={message}")
    assert one.status == 200, one
    failed = await handles[0].result()
    assert "sorry, not today" in str(failed.error)
    await way.gateway.until_parked(2, state="waiting")
    every = await asyncio.to_thread(way.gateway.post, f"/parked/fail?endpoint={endpoint}&message={message}")
    assert every.status == 200, every
    for handle in handles[1:]:
        assert "sorry, not today" in str((await handle.result()).error)
    await way.gateway.until_parked(0)
    await way.gateway.until_ended("failed", 3)
    await way.up()
    assert [await way.asked(handle) for handle in handles] == [0, 0, 0]


async def test_an_operator_can_have_what_is_parked_tried_at_once(make: Make) -> None:
    """The pauses between the tries of this policy are too long for this test."""
    pauses = "retry: { attempts: 1, backoff: { initial: 30s, max: 1m } }"
    way = await make(policies=f"policies:\n  - park: {{ on: [retryable_failure] }}\n    {pauses}\n")
    handle = await way.park("handler_error", Fault("INTERNAL", tries=4))
    while (await handle.describe()).status == WorkflowExecutionStatus.RUNNING:
        answer = await asyncio.to_thread(way.gateway.post, f"/parked/release?endpoint={way.pair.target.name}")
        assert answer.status == 200, answer
        await asyncio.sleep(0.2)
    assert (await handle.result()).result == 5


async def test_steering_needs_a_header_that_no_web_page_sends(way: Parking) -> None:
    for path in ("/parked/release", "/parked/fail"):
        url = f"http://{way.gateway.admin}{path}?endpoint={way.pair.target.name}&message=x"
        assert (await asend("POST", url, b"")).status == 403


# --- the disk ---


def allow(pid: int, size: int | None) -> None:
    """How large a file the process may make, in bytes; None: as large as it likes."""
    limit = "unlimited" if size is None else f"{size}:unlimited"
    subprocess.run(["prlimit", "--pid", str(pid), f"--fsize={limit}"], check=True, capture_output=True)


async def test_a_full_disk_switches_parking_off_and_everything_else_goes_on(way: Parking) -> None:
    await asyncio.to_thread(way.gateway.stop)
    # A process that writes beyond its limit is told so instead of being ended.
    way.gateway.command = ["env", "--ignore-signal=XFSZ", *way.gateway.command]
    beside = f"beside-{uuid.uuid4().hex[:8]}"
    way.gateway.define(beside, external_target(way.handler.cluster.direct_url(way.pair.target)))
    await asyncio.to_thread(way.gateway.start)
    await way.caller.cluster.create_external_endpoint(beside, way.gateway.target_url(beside))
    await way.down()
    kept = await way.park("echo", "kept")
    largest = max(path.stat().st_size for path in way.gateway.files())
    allow(way.gateway.pid, largest + 200_000)
    body = "x" * 50_000
    more = []
    while not (await way.gateway.read()).sum("nexus_gateway_park_refused_total"):
        more.append(await way.begin("echo", body))
        await asyncio.sleep(0.1)
        assert len(more) < 100, "all of it was parked"
    await way.gateway.until_metric("park_store_up", lambda value: value == 0)
    # What has nothing to do with parking goes on.
    for _ in range(5):
        assert (await call(way.caller.client, Plan(beside, "echo", "alive"))).result == "alive"
        assert (await call(way.caller.client, Plan(beside, "job", Job("alive")))).result == "done: alive"
    assert way.gateway.running()
    # As soon as there is room, starts are parked again: those that were refused come again by themselves.
    allow(way.gateway.pid, None)
    await way.gateway.until_metric("park_store_up", lambda value: value == 1)
    last = await way.park("job", Job("last"))
    await way.up()
    assert (await kept.result()).result == "kept"
    assert (await last.result()).result == "done: last"
    assert [(await handle.result()).result for handle in more] == [body] * len(more)
    await way.gateway.until_parked(0)


async def test_nothing_that_an_operation_contains_is_readable_on_disk(fenced: Fenced, way: Parking) -> None:
    secret, credential = unique("planted-secret"), unique("planted-credential")
    await way.down()
    handle = await way.park("echo", {"card": secret}, headers={"X-Credential": credential})
    look(way, secret, credential)
    await asyncio.to_thread(fenced.relay.take_away, "refuse")
    try:
        await way.up()
        await way.gateway.until_parked(1, state="done")
        look(way, secret, credential)
    finally:
        await asyncio.to_thread(fenced.relay.heal)
    assert (await handle.result()).result == {"card": secret}
    await way.gateway.until_parked(0)
    look(way, secret, credential)


def look(way: Parking, *secrets: str) -> None:
    """Searches every file of the gateway's state for the secrets, in plain text and in Base64."""
    assert way.gateway.files(), "something is stored"
    for path in way.gateway.state.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in secrets:
            inner = base64.b64encode(secret.encode())[4:-4]
            for form in (secret.encode(), inner):
                assert form not in content, f"{form!r} is in {path}"


# --- nothing lost, nothing twice ---

TROUBLE = Trouble(lasts=14, lives=(1.5, 4), dead=(0, 1), stays=(1, 3), away=(2, 4), seed=5)


@pytest.mark.parametrize(("store", "gateways"), [(FILE, 1), (POSTGRES, 3)])
async def test_nothing_is_lost_and_no_workflow_runs_twice(fenced: Fenced, store: str, gateways: int) -> None:
    result: Result = await run(fenced, TROUBLE, 80, 6, (0.2, 5), patience=60, gateways=gateways, store=store)
    told = f"{TROUBLE}, {result.rows()}, {result.gateways}, {result.wrong()}"
    assert result.problems() == [], told
    assert result.count == 80 and result.right == 80, told
    assert result.kills >= 3 and result.parked > 0, told
