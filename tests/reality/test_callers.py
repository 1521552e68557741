"""Who calls is found out, and decides what may be called, in front of a real cluster: hidden endpoints cannot be told
from those that do not exist."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.setting import configuration
from harness.caller import Outcome, Plan, call
from harness.certificates import Mounted
from harness.gateway import Gateway, binary
from harness.http import Answer
from harness.planted import note
from harness.processes import free_port, scratch_folder
from harness.service import Call, Job
from harness.tokens import Issuer
from harness.traffic import start
from harness.world import HANDLER_QUEUE, Lane, World

Gateways = Callable[..., Gateway]


@dataclass(frozen=True)
class ApiKey:
    """What `nexus-gateway keys api` made."""

    text: str
    entry: str

    @classmethod
    def make(cls, name: str) -> ApiKey:
        command = [str(binary()), "keys", "api", "--name", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        key = cls(done.stderr.split()[-1], done.stdout.strip())
        note(key.text)
        return key


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


async def reloads(gateway: Gateway) -> float:
    metrics = await asyncio.to_thread(gateway.metrics)
    return metrics.sum("nexus_gateway_config_reloads_total", result="applied")


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


def by_token(issuer: Issuer) -> str:
    """Who knows callers by the tokens of this issuer."""
    return f"""
authentication:
  jwt:
    - issuer: {issuer.url}
      audience: {issuer.audience}
      jwks: {{ file: {issuer.key_set()} }}
      pattern: "system:serviceaccount:{{namespace}}:{{name}}"
"""


def of_namespace(namespace: str, endpoint: str) -> str:
    """Who lets every caller of this namespace call this endpoint, and nobody anything else."""
    return f"""
authorization:
  rules:
    - {{ namespaces: [{namespace}], endpoints: [{endpoint}] }}
"""


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


def told_of_caller(call: Call) -> tuple[str | None, str | None]:
    """Name and namespace of the caller, as a gateway told the handler."""
    return call.headers.get("nexus-gateway-caller"), call.headers.get("nexus-gateway-caller-namespace")


class Across:
    """Caller's cluster → gateway beside it, which shows a credential → gateway at the edge, which knows callers by it →
    handler's cluster; and completions the same way home."""

    def __init__(self, lane: Lane, gateways: Gateways) -> None:
        self.lane = lane
        self.endpoint = f"across-{uuid.uuid4().hex[:8]}"
        self._gateways = gateways
        self._near, self._edge = free_port(), free_port()

    async def start(self, authentication: str, rules: str, shown: str = "") -> Across:
        """`shown`: the sidecar's `credentials`."""
        await self.lane.handler.cluster.create_worker_endpoint(self.endpoint, HANDLER_QUEUE)
        handler = f'clusters: {{ handler: {{ url: "{self.lane.handler.cluster.url}", caller: header }} }}\n'
        near = f"http://127.0.0.1:{self._near}"
        edge = handler + authentication + rules + callbacks(self._edge, near)
        self.edge = await self._gateway(self._edge, edge)
        sidecar = f"""
endpoints:
  {self.endpoint}:
    external:
      url: {self.edge.target_url(self.endpoint)}
      {f"credentials: {shown}" if shown else ""}
"""
        caller = f"http://127.0.0.1:{self.lane.caller.cluster.http_port}"
        self.near = await self._gateway(self._near, sidecar + callbacks(self._near, caller))
        await self.lane.caller.cluster.create_external_endpoint(self.endpoint, self.near.target_url(self.endpoint))
        return self

    async def _gateway(self, port: int, text: str) -> Gateway:
        gateway = self._gateways(config=configuration(text), listen=f"127.0.0.1:{port}")
        await asyncio.to_thread(gateway.start)
        return gateway

    async def run(self, operation: str, input: object = None, **headers: str) -> Outcome:
        plan = Plan(self.endpoint, operation, input, headers=headers)
        return await call(self.lane.caller.client, plan)

    def calls(self) -> list[Call]:
        """Those that reached the handler."""
        return [call for call in self.lane.handler.journal.calls if call.endpoint == self.endpoint]


def callbacks(port: int, back: str) -> str:
    """Who relays the completions that come to this port to `back`."""
    return f"""
callbacks:
  public_url: http://127.0.0.1:{port}
  allow: [{{ url: "{back}", private: true }}]
"""


def secret(text: str) -> str:
    """As a configuration takes it from a file."""
    file = scratch_folder("secret") / "secret"
    file.write_text(f"{text}\n")
    note(text)
    return f'"${{file:{file}}}"'


def by_key(header: str, *keys: ApiKey) -> str:
    """Who knows callers by these keys in this header."""
    entries = "".join(f"      {key.entry}\n" for key in keys)
    return f"authentication:\n  api_keys:\n    header: {header}\n    keys:\n{entries}"


def of_caller(caller: str, endpoint: str) -> str:
    return f"authorization: {{ rules: [ {{ callers: [{caller}], endpoints: [{endpoint}] }} ] }}\n"


async def crosses(across: Across, caller: tuple[str | None, str | None], credential: str) -> None:
    """Operations go all the way and come home; the handler learns who calls, and not by which credential."""
    claimed = {"nexus-gateway-caller": "root", "x-claimed": "kept"}
    echoed, done = await asyncio.gather(
        across.run("echo", "planted-x", **claimed),
        across.run("job", Job("planted-x")),
    )
    assert (echoed.result, done.result, done.asynchronous) == ("planted-x", "done: planted-x", True)
    calls = across.calls()
    assert {call.operation for call in calls} == {"echo", "job"}
    for call in calls:
        assert told_of_caller(call) == caller, call
        assert not {"x-api-key", "authorization"} & set(call.headers) and credential not in str(call), call
        assert call.operation != "echo" or call.headers["x-claimed"] == "kept", call
    for gateway in (across.near, across.edge):
        # It is counted once it is answered, when the caller may know already.
        while (count := await completions(gateway, across.endpoint)) < 1:
            await asyncio.sleep(0.05)
        assert count == 1
        assert credential not in gateway.output()


async def completions(gateway: Gateway, endpoint: str) -> float:
    metrics = await asyncio.to_thread(gateway.metrics)
    return metrics.sum("nexus_gateway_requests_total", endpoint=endpoint, method="complete")


async def fails(across: Across, type: str) -> None:
    """An operation ends at once, as one that cannot be retried, and reaches no handler."""
    outcome = await across.run("echo", "planted-x")
    told = outcome.cause("HandlerError")
    assert (told["type"], told["retryable"]) == (type, False), outcome
    assert across.calls() == []


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
