"""Endpoints are created, retargeted, renamed, deleted and created anew while traffic runs.

Beside the traffic through the gateway, by name, the same traffic goes to the cluster directly, by id: no request
may fail through the gateway that a direct one would not have failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio.api.operatorservice.v1 import GetNexusEndpointRequest, UpdateNexusEndpointRequest

from harness.caller import Outcome
from harness.cluster import Endpoint
from harness.service import Journal, handler_worker
from harness.traffic import Traffic, start
from harness.world import HANDLER_QUEUE, Lane

OTHER_QUEUE = "other-handlers"


@pytest_asyncio.fixture(scope="module", autouse=True)
async def other_worker(world: object) -> AsyncIterator[None]:
    """A second worker, on a task queue of its own."""
    site = world.main.handler  # type: ignore[attr-defined]
    async with handler_worker(site.client, OTHER_QUEUE, Journal()):
        yield


async def rename(lane: Lane, endpoint: Endpoint, name: str) -> None:
    """Gives an endpoint a new name; it keeps its id. The command line cannot do this."""
    service = lane.handler.client.operator_service
    found = (await service.get_nexus_endpoint(GetNexusEndpointRequest(id=endpoint.id))).endpoint
    found.spec.name = name
    await service.update_nexus_endpoint(UpdateNexusEndpointRequest(id=found.id, version=found.version, spec=found.spec))


async def test_an_endpoint_works_as_soon_as_it_is_created(newest: Lane) -> None:
    for number in range(5):
        name = f"fresh-{number}"
        await newest.handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE)
        answer = await asyncio.to_thread(start, newest.gateway.target_url(name), "queue")
        assert answer.status == 200, answer


async def test_an_endpoint_that_was_asked_for_too_early_works_soon_after_it_is_created(newest: Lane) -> None:
    name = "awaited"
    async with Traffic(newest.gateway.target_url(name)) as traffic:
        await traffic.enter("absent")
        assert {(reply.status, reply.reason) for reply in traffic.replies} == {(404, "unknown_endpoint")}
        await newest.handler.cluster.create_worker_endpoint(name, HANDLER_QUEUE)
        await traffic.until(lambda: traffic.replies[-1].status == 200)
        await traffic.enter("found")
        await traffic.enter("later")
    # A miss is remembered for a short time; once found, the endpoint is not lost again.
    assert {(reply.status, reply.reason) for reply in traffic.refused()} == {(404, "unknown_endpoint")}
    assert {reply.status for reply in traffic.sent_in("later")} == {200}


async def test_retargeting_an_endpoint_moves_its_traffic_and_fails_no_request(newest: Lane) -> None:
    pair = await newest.new_pair()
    stop = asyncio.Event()

    async def operations() -> list[Outcome]:
        """What a caller's cluster makes of it meanwhile."""
        ended = []
        while not stop.is_set():
            ended.append(await newest.call("queue", pair=pair))
        return ended

    running = asyncio.create_task(operations())
    by_name = Traffic(newest.gateway.target_url(pair.target.name))
    directly = Traffic(newest.handler.cluster.direct_url(pair.target))
    async with by_name, directly:
        for phase, queue in (("moved", OTHER_QUEUE), ("back", HANDLER_QUEUE)):
            await asyncio.gather(by_name.enter(f"before {phase}"), directly.enter(f"before {phase}"))
            await newest.handler.cluster.retarget_endpoint(pair.target.name, queue)
            for traffic in (by_name, directly):
                await traffic.until(lambda t=traffic, q=queue: {r.body for r in t.last()} == {f'"{q}"'})
            await asyncio.gather(by_name.enter(phase), directly.enter(phase))
            for traffic in (by_name, directly):
                assert {reply.body for reply in traffic.sent_in(phase)} == {f'"{queue}"'}
    stop.set()
    assert directly.refused() == []
    assert by_name.refused() == []
    assert {outcome.result for outcome in await running} == {HANDLER_QUEUE, OTHER_QUEUE}


async def test_a_renamed_endpoint_is_served_by_its_new_name_at_once_and_by_its_id_all_along(newest: Lane) -> None:
    pair = await newest.new_pair()
    old, new = pair.target.name, f"{pair.target.name}-renamed"
    by_name = Traffic(newest.gateway.target_url(old))
    by_id = Traffic(newest.gateway.target_url(pair.target.id))
    directly = Traffic(newest.handler.cluster.direct_url(pair.target))
    async with by_name, by_id, directly:
        await asyncio.gather(*[traffic.enter("running") for traffic in (by_name, by_id, directly)])
        assert by_name.refused() == []
        by_name.phase = "renaming"
        await rename(newest, pair.target, new)
        by_new_name = await asyncio.to_thread(start, newest.gateway.target_url(new), "queue")
        assert by_new_name.status == 200, by_new_name
        # The old name goes when the table is renewed.
        await by_name.until(lambda: {reply.status for reply in by_name.last()} == {404})
        await asyncio.gather(by_id.enter("after"), directly.enter("after"))
    assert directly.refused() == []
    assert by_id.refused() == []
    # It may be unsure for a moment whether the old name is still there; it never blames the handler's cluster.
    assert {reply.reason for reply in by_name.refused()} <= {"unknown_endpoint", "registry_unavailable"}


async def test_a_deleted_endpoint_is_refused_as_it_is_without_a_gateway(newest: Lane) -> None:
    pair = await newest.new_pair()
    by_name = Traffic(newest.gateway.target_url(pair.target.name))
    directly = Traffic(newest.handler.cluster.direct_url(pair.target))
    async with by_name, directly:
        await asyncio.gather(by_name.enter("there"), directly.enter("there"))
        by_name.phase = directly.phase = "deleting"
        await newest.handler.cluster.delete_endpoint(pair.target.name)
        for traffic in (by_name, directly):
            await traffic.until(lambda t=traffic: {reply.status for reply in t.last()} == {404})
    for traffic in (by_name, directly):
        assert {reply.status for reply in traffic.sent_in("there") if reply.answered == "there"} == {200}
        assert {reply.status for reply in traffic.replies} == {200, 404}
        assert all('"NOT_FOUND"' in reply.body for reply in traffic.refused())


async def test_an_endpoint_that_is_deleted_and_created_anew_works_at_the_next_request(newest: Lane) -> None:
    """Its id is a new one, which the gateway has not seen yet."""
    pair = await newest.new_pair()
    cluster, url = newest.handler.cluster, newest.gateway.target_url(pair.target.name)
    assert (await asyncio.to_thread(start, url, "queue")).status == 200
    for _ in range(3):
        await cluster.delete_endpoint(pair.target.name)
        anew = await cluster.create_worker_endpoint(pair.target.name, HANDLER_QUEUE)
        via, direct = await asyncio.gather(
            asyncio.to_thread(start, url, "queue"), asyncio.to_thread(start, cluster.direct_url(anew), "queue")
        )
        assert (via.status, direct.status) == (200, 200), via


async def test_traffic_to_an_endpoint_that_is_deleted_and_created_anew_recovers(newest: Lane) -> None:
    pair = await newest.new_pair()
    cluster = newest.handler.cluster
    async with Traffic(newest.gateway.target_url(pair.target.name)) as traffic:
        await traffic.enter("there")
        traffic.phase = "gone"
        await cluster.delete_endpoint(pair.target.name)
        await cluster.create_worker_endpoint(pair.target.name, HANDLER_QUEUE)
        traffic.phase = "there again"
        await traffic.until(lambda: {(r.sent, r.status) for r in traffic.last()} == {("there again", 200)})
        await traffic.enter("settled")
    assert {reply.status for reply in traffic.sent_in("there") if reply.answered == "there"} == {200}
    assert {reply.status for reply in traffic.sent_in("settled")} == {200}
    # A request that came into the gap was told so; one that came after it must not learn of the old id.
    stale = [reply for reply in traffic.sent_in("there again") if reply.status != 200 and not reply.reason]
    assert stale == [], "the handler's cluster was asked for the id of the endpoint that is gone"
