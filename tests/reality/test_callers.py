"""Who calls is found out, and decides what may be called, in front of a real cluster: hidden endpoints cannot be told
from those that do not exist."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.across import (
    Across,
    ApiKey,
    Gateways,
    by_key,
    by_token,
    crosses,
    fails,
    of_caller,
    of_namespace,
    reloads,
    secret,
    told_of_caller,
)
from harness.caller import Plan, begin
from harness.certificates import Mounted
from harness.gateway import Gateway
from harness.http import Answer, send
from harness.processes import scratch_folder
from harness.tokens import Issuer
from harness.traffic import start
from harness.world import HANDLER_QUEUE, Lane, World


@dataclass(frozen=True)
class Edge:
    """A gateway with rules in front of the cluster, and two of that cluster's endpoints."""

    gateway: Gateway
    file: Path
    orders: str
    billing: str

    async def start(self, endpoint: str, key: str = "", **headers: str) -> Answer:
        shown = {"x-api-key": key} if key else {}
        return await asyncio.to_thread(start, self.gateway.target_url(endpoint), "echo", "planted-x", **shown, **headers)


def written(world: World, orders: str, keys: list[ApiKey], tell: bool = False) -> str:
    entries = "\n".join(f"      {key.entry}" for key in keys)
    return f"""
clusters:
  handler: {{ url: "{world.sites["handler"].cluster.url}" }}
authentication:
  api_keys:
    keys:
{entries}
authorization:
  tell_forbidden: {str(tell).lower()}
  rules:
    - {{ callers: [orders], endpoints: [{orders}], operations: [echo] }}
    - {{ callers: [billing] }}
"""


async def edge(world: World, gateways: Gateways, keys: list[ApiKey], tell: bool = False) -> Edge:
    return await configured(world, gateways, lambda orders: written(world, orders, keys, tell))


async def configured(world: World, gateways: Gateways, settings: Callable[[str], str]) -> Edge:
    """`settings`: the configuration for an endpoint of this name."""
    mark = uuid.uuid4().hex[:8]
    cluster = world.sites["handler"].cluster
    orders = await cluster.create_worker_endpoint(f"orders-{mark}", HANDLER_QUEUE)
    billing = await cluster.create_worker_endpoint(f"billing-{mark}", HANDLER_QUEUE)
    file = scratch_folder("config") / "gateway.yaml"
    file.write_text(settings(orders.name))
    gateway = gateways(config=file)
    await asyncio.to_thread(gateway.start)
    return Edge(gateway, file, orders.name, billing.name)


async def test_an_endpoint_that_a_caller_may_not_see_is_one_that_does_not_exist(
    world: World, gateways: Gateways
) -> None:
    orders, billing = ApiKey.make("orders"), ApiKey.make("billing")
    at = await edge(world, gateways, [orders, billing])
    assert (await at.start(at.orders, orders.text)).json() == "planted-x"
    assert (await at.start(at.billing, billing.text)).json() == "planted-x"
    hidden = await at.start(at.billing, orders.text)
    unknown = await at.start("never-heard-of", orders.text)
    assert hidden.status == unknown.status == 404
    assert hidden.body.decode().replace(at.billing, "…") == unknown.body.decode().replace("never-heard-of", "…")
    assert set(hidden.headers) == set(unknown.headers)
    assert hidden.headers["nexus-gateway-failure"] == unknown.headers["nexus-gateway-failure"]
    # By its id it is no less hidden, and what is seen can still not be called for another operation.
    found = await world.sites["handler"].cluster.find_endpoint(at.billing)
    assert (await at.start(found.id, orders.text)).status == 404
    url = at.gateway.target_url(at.orders)
    refused = await asyncio.to_thread(start, url, "job", "planted-x", **{"x-api-key": orders.text})
    assert (refused.status, refused.json()["details"]["type"]) == (403, "UNAUTHORIZED")


async def test_who_shows_nothing_or_something_wrong_learns_nothing(world: World, gateways: Gateways) -> None:
    at = await edge(world, gateways, [ApiKey.make("orders")])
    stranger = ApiKey.make("orders")  # of the same name, but not in the file
    for key in ("", stranger.text, "planted-x" * 400):
        answers = [await at.start(name, key) for name in (at.orders, at.billing, "never-heard-of")]
        assert {answer.status for answer in answers} == {401}, answers
        assert len({answer.body for answer in answers}) == 1, answers
        assert answers[0].json()["details"]["type"] == "UNAUTHENTICATED"


async def test_a_key_is_changed_without_a_moment_in_which_neither_works(world: World, gateways: Gateways) -> None:
    old, new = ApiKey.make("orders"), ApiKey.make("orders")
    at = await edge(world, gateways, [old])

    for keys, works, does_not in (([old, new], [old, new], []), ([new], [new], [old])):
        before = await reloads(at.gateway)
        draft = Path(f"{at.file}.draft")
        draft.write_text(written(world, at.orders, keys))
        draft.replace(at.file)
        while await reloads(at.gateway) == before:
            await asyncio.sleep(0.05)
        assert {(await at.start(at.orders, key.text)).status for key in works} == {200}
        assert {(await at.start(at.orders, key.text)).status for key in does_not} <= {401}


async def test_a_key_reaches_no_handler_and_no_log(world: World, gateways: Gateways) -> None:
    orders = ApiKey.make("orders")
    at = await edge(world, gateways, [orders])
    seen = len(world.sites["handler"].journal.calls)
    assert (await at.start(at.orders, orders.text)).status == 200
    call = world.sites["handler"].journal.calls[seen:][-1]
    assert "x-api-key" not in call.headers and orders.text not in str(call), call
    assert orders.text not in at.gateway.output()


async def test_a_service_account_is_known_by_its_token_and_by_no_other(world: World, gateways: Gateways) -> None:
    issuer, stranger = Issuer(), Issuer()
    handler = world.sites["handler"]

    def settings(orders: str) -> str:
        clusters = f'clusters: {{ handler: {{ url: "{handler.cluster.url}", caller: header }} }}\n'
        return clusters + by_token(issuer) + of_namespace("shop", orders)

    at = await configured(world, gateways, settings)

    async def shown(token: str, endpoint: str = at.orders) -> Answer:
        return await at.start(endpoint, authorization=f"Bearer {token}")

    right = issuer.service_account("shop", "orders")
    seen = len(handler.journal.calls)
    assert (await shown(right)).json() == "planted-x"
    seen_by_handler = handler.journal.calls[seen:][-1]
    assert told_of_caller(seen_by_handler) == ("orders", "shop")
    assert "authorization" not in seen_by_handler.headers and right not in str(seen_by_handler)
    # What is of another namespace is known, but sees nothing; so does the right one beyond its endpoint.
    assert (await shown(issuer.service_account("warehouse", "orders"))).status == 404
    assert (await shown(right, at.billing)).status == 404
    for wrong in (
        issuer.service_account("shop", "orders", aud=["https://kubernetes.default.svc"]),
        issuer.service_account("shop", "orders", iss="https://elsewhere.example"),
        issuer.service_account("shop", "orders", sub="orders"),
        issuer.expired("shop", "orders"),
        issuer.unsigned("shop", "orders"),
        stranger.service_account("shop", "orders"),
        right[:-8] + "AAAAAAAA",
    ):
        answer = await shown(wrong)
        assert answer.status == 401, wrong
        assert answer.json()["details"]["type"] == "UNAUTHENTICATED"
    assert len(handler.journal.calls) == seen + 1
    assert right not in at.gateway.output()


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_a_sidecar_shows_the_edge_who_calls(newest: Lane, gateways: Gateways, header: str) -> None:
    key = ApiKey.make("orders")
    across = Across(newest, gateways)
    bearer = f"{{ bearer: {secret(key.text)} }}"
    named = f"{{ header: {{ name: {header}, value: {secret(key.text)} }} }}"
    shown = bearer if header == "authorization" else named
    await across.start(by_key(header, key), of_caller("orders", across.endpoint), shown)
    await crosses(across, ("orders", None), key.text)


async def test_a_sidecar_shows_the_edge_the_token_of_a_service_account(newest: Lane, gateways: Gateways) -> None:
    issuer = Issuer()
    token = issuer.service_account("shop", "orders")
    across = Across(newest, gateways)
    await across.start(by_token(issuer), of_namespace("shop", across.endpoint), f"{{ bearer: {secret(token)} }}")
    await crosses(across, ("orders", "shop"), token)


async def test_a_sidecar_shows_a_new_token_as_soon_as_its_file_has_it(newest: Lane, gateways: Gateways) -> None:
    issuer = Issuer()
    across, files = Across(newest, gateways), Mounted(token=issuer.expired("shop", "orders"))
    shown = f'{{ bearer: "${{file:{files.path("token")}}}" }}'
    await across.start(by_token(issuer), of_namespace("shop", across.endpoint), shown)
    await fails(across, "UNAUTHENTICATED")
    before = await reloads(across.near)
    files.replace(token=issuer.service_account("shop", "orders"))
    while await reloads(across.near) == before:
        await asyncio.sleep(0.05)
    assert (await across.run("echo", "planted-x")).result == "planted-x"


async def test_an_operation_is_canceled_by_who_started_it_and_not_by_who_knows_its_token(
    newest: Lane, gateways: Gateways
) -> None:
    """Sealed twice: by the gateway beside the caller's cluster, which knows nobody, and by the one at the edge."""
    orders, stranger = ApiKey.make("orders"), ApiKey.make("stranger")
    across = Across(newest, gateways)
    rules = of_caller("'*'", across.endpoint)
    shown = f"{{ header: {{ name: x-api-key, value: {secret(orders.text)} }} }}"
    await across.start(by_key("x-api-key", orders, stranger), rules, shown)
    token = f"planted-{uuid.uuid4()}"
    plan = Plan(across.endpoint, "by_hand", token, cancel="wait_requested", cancel_on_signal=True)
    handle = await begin(newest.caller.client, plan)
    while not newest.handler.journal.of("start", token):
        await asyncio.sleep(0.02)

    url = f"{across.edge.target_url(across.endpoint)}/RealityService/by_hand/cancel"
    for key in (stranger, orders):
        headers = {"x-api-key": key.text, "nexus-operation-token": token}
        answer = await asyncio.to_thread(send, "POST", url, b"", headers)
        assert (answer.status, answer.headers["nexus-gateway-failure"]) == (404, "unknown_token"), answer
    assert not newest.handler.journal.of("cancel", token)

    await handle.signal("cancel_now")
    assert "CancelledError" in (await handle.result()).kinds
    assert len(newest.handler.journal.of("cancel", token)) == 1


async def test_without_the_right_credential_an_operation_fails_for_good(newest: Lane, gateways: Gateways) -> None:
    orders, billing, stranger = ApiKey.make("orders"), ApiKey.make("billing"), ApiKey.make("orders")

    async def across(shown: str) -> Across:
        made = Across(newest, gateways)
        return await made.start(by_key("x-api-key", orders, billing), of_caller("orders", made.endpoint), shown)

    def key(of: ApiKey) -> str:
        return f"{{ header: {{ name: x-api-key, value: {secret(of.text)} }} }}"

    await fails(await across(""), "UNAUTHENTICATED")
    await fails(await across(key(stranger)), "UNAUTHENTICATED")
    # Known, but not allowed: to this caller there is no such endpoint.
    await fails(await across(key(billing)), "NOT_FOUND")
