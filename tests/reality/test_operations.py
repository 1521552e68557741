"""Operations of every kind cross the gateway by name and end for the caller as they end without it."""

from __future__ import annotations

from harness.service import ODD_OPERATION, ODD_SERVICE, ODD_TOKEN, SERVICE, Job
from harness.world import Lane


async def test_a_synchronous_operation_returns_its_result(lane: Lane) -> None:
    outcome = await lane.compare("echo", {"order": 7})
    assert outcome.result == {"order": 7}
    assert not outcome.asynchronous


async def test_a_workflow_backed_operation_completes_by_callback(lane: Lane) -> None:
    outcome = await lane.compare("job", Job("seven"))
    assert outcome.result == "done: seven"
    assert outcome.asynchronous


async def test_the_failure_of_the_workflow_behind_an_operation_reaches_the_caller(lane: Lane) -> None:
    outcome = await lane.compare("job", Job("no stock", then="fail"))
    assert outcome.kinds == ["NexusOperationError", "ApplicationError"]
    failure = outcome.cause("ApplicationError")
    assert (failure["type"], failure["message"]) == ("JobFailed", "the job failed")
    assert failure["details"] == [{"why": "no stock"}]


async def test_canceling_a_workflow_backed_operation_cancels_its_workflow(lane: Lane) -> None:
    outcome = await lane.compare("job", Job("never", then="wait"), cancel="wait_completed")
    assert outcome.asynchronous
    assert outcome.kinds == ["NexusOperationError", "CancelledError"]


async def test_an_operation_that_fails_at_once_is_failed_and_not_retried(lane: Lane) -> None:
    outcome = await lane.compare("operation_error", "failed")
    assert outcome.cause("ApplicationError")["message"] == "ended as failed"


async def test_an_operation_that_its_handler_cancels_at_once_is_canceled(lane: Lane) -> None:
    outcome = await lane.compare("operation_error", "canceled")
    assert outcome.kinds[:2] == ["NexusOperationError", "CancelledError"]
    assert outcome.cause("CancelledError")["message"] == "ended as canceled"


async def test_a_cancel_request_carries_the_operation_token_unchanged(lane: Lane) -> None:
    # A token with a slash has no place in the path that the oldest callers put it into, gateway or not.
    token = ODD_TOKEN.replace("/", "-") + lane.pair.via
    outcome = await lane.compare("by_hand", token, cancel="wait_requested")
    assert outcome.kinds == ["NexusOperationError", "CancelledError"]
    assert len(lane.handler.journal.of("cancel", token)) == 2, "one through the gateway, one directly"


async def test_a_token_with_a_slash_fares_as_it_does_without_a_gateway(lane: Lane) -> None:
    outcome = await lane.compare("by_hand", ODD_TOKEN, cancel="wait_requested")
    assert outcome.asynchronous and outcome.error


async def test_an_operation_that_the_service_does_not_have_is_refused(lane: Lane) -> None:
    outcome = await lane.compare("no_such_operation")
    assert outcome.cause("HandlerError")["type"] == "NOT_FOUND"


async def test_a_service_that_the_worker_does_not_have_is_refused(lane: Lane) -> None:
    outcome = await lane.compare("echo", service="NoSuchService")
    assert outcome.cause("HandlerError")["type"] == "NOT_FOUND"


async def test_names_that_need_percent_encoding_arrive_as_they_were_sent(lane: Lane) -> None:
    outcome = await lane.compare(ODD_OPERATION, "x", service=ODD_SERVICE)
    assert outcome.result == f"{ODD_SERVICE}|{ODD_OPERATION}|x"


async def test_a_slash_in_a_name_fares_as_it_does_without_a_gateway(lane: Lane) -> None:
    outcome = await lane.compare("ec/ho", service=f"{SERVICE}/x")
    assert outcome.error
