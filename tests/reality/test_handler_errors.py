"""Each type of handler error means to the caller what it means without a gateway: refused for good, or tried again.

A caller's cluster stops calling an endpoint after more than five retryable answers in a row, so the errors that
are retried come in small groups, each on an endpoint of its own.
"""

from __future__ import annotations

import asyncio

import pytest

from harness.caller import Outcome, Plan, begin, pending
from harness.http import Answer
from harness.service import Trouble
from harness.traffic import start
from harness.world import Lane

FOR_GOOD = ["BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "NOT_IMPLEMENTED"]
RETRIED = ["REQUEST_TIMEOUT", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "UPSTREAM_TIMEOUT"]


async def all_of(lane: Lane, troubles: list[Trouble]) -> list[Outcome]:
    """Runs one operation for each, at most two through an endpoint."""
    pairs = await asyncio.gather(*[lane.new_pair() for _ in troubles[::2]])
    return await asyncio.gather(
        *[lane.compare("handler_error", trouble, pairs[i // 2]) for i, trouble in enumerate(troubles)]
    )


async def test_errors_that_are_not_retryable_end_the_operation_at_the_first_try(lane: Lane) -> None:
    for type, outcome in zip(FOR_GOOD, await all_of(lane, [Trouble(type, 99) for type in FOR_GOOD]), strict=True):
        error = outcome.cause("HandlerError")
        assert (error["type"], error["retryable"]) == (type, False)
        assert f"{type} at try 1" in str(outcome.error)


async def test_errors_that_are_retryable_are_tried_again(lane: Lane) -> None:
    for type, outcome in zip(RETRIED, await all_of(lane, [Trouble(type) for type in RETRIED]), strict=True):
        assert outcome.result == 2, f"{type}: {outcome}"


async def test_a_handler_that_is_unavailable_for_a_moment_is_asked_again_before_the_caller_is_told(newest: Lane) -> None:
    target = newest.pair.target

    def both() -> list[Answer]:
        urls = newest.gateway.target_url(target.name), newest.handler.cluster.direct_url(target)
        return [start(url, "handler_error", Trouble("UNAVAILABLE").__dict__) for url in urls]

    via, direct = await asyncio.to_thread(both)
    assert (via.status, via.json(), direct.status) == (200, 2, 503)


async def test_a_conflict_ends_the_operation_where_both_servers_know_the_type(lane: Lane) -> None:
    [outcome] = await all_of(lane, [Trouble("CONFLICT")])
    if "1.29" in lane.name or "1.30" in lane.name:
        assert outcome.error or outcome.result == 2, "older servers take it for an unknown, retryable error"
    else:
        assert outcome.cause("HandlerError")["type"] == "CONFLICT"


async def test_the_handler_may_turn_the_retryability_of_a_type_around(lane: Lane) -> None:
    refused, retried = await all_of(lane, [Trouble("INTERNAL", 99, False), Trouble("BAD_REQUEST", 1, True)])
    assert refused.cause("HandlerError")["type"] == "INTERNAL"
    assert "INTERNAL at try 1" in str(refused.error)
    assert retried.result == 2


@pytest.mark.parametrize("type", ["INTERNAL", "RESOURCE_EXHAUSTED"])
async def test_while_it_is_retried_the_caller_is_shown_the_error_of_the_handler(newest: Lane, type: str) -> None:
    pair = await newest.new_pair()
    client = newest.caller.client
    handles = [
        await begin(client, Plan(endpoint, "handler_error", Trouble(type, 2))) for endpoint in (pair.via, pair.direct)
    ]
    shown = []
    for handle in handles:
        while not ((operations := await pending(client, handle)) and operations[0].HasField("last_attempt_failure")):
            await asyncio.sleep(0.05)
        shown.append(operations[0].last_attempt_failure)
    for failure in shown:
        assert failure.nexus_handler_failure_info.type == type
        assert type in str(failure)
        assert failure.source == shown[1].source
    assert [await handle.result() for handle in handles] == [Outcome(result=3)] * 2
