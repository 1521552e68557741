"""Who calls is found out, and decides what may be called, in front of a real cluster: hidden endpoints cannot be told
from those that do not exist."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


from harness.gateway import Gateway, binary
from harness.http import Answer
from harness.processes import scratch_folder
from harness.traffic import start
from harness.world import HANDLER_QUEUE, World

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
        return cls(done.stderr.split()[-1], done.stdout.strip())


@dataclass(frozen=True)
class Edge:
    """A gateway with rules in front of the cluster, and two of that cluster's endpoints."""

    gateway: Gateway
    file: Path
    orders: str
    billing: str

    async def start(self, endpoint: str, key: str = "", **headers: str) -> Answer:
        shown = {"x-api-key": key} if key else {}
        return await asyncio.to_thread(start, self.gateway.target_url(endpoint), "echo", "x", **shown, **headers)


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
    mark = uuid.uuid4().hex[:8]
    cluster = world.sites["handler"].cluster
    orders = await cluster.create_worker_endpoint(f"orders-{mark}", HANDLER_QUEUE)
    billing = await cluster.create_worker_endpoint(f"billing-{mark}", HANDLER_QUEUE)
    file = scratch_folder("config") / "gateway.yaml"
    file.write_text(written(world, orders.name, keys, tell))
    gateway = gateways(config=file)
    await asyncio.to_thread(gateway.start)
    return Edge(gateway, file, orders.name, billing.name)


async def test_an_endpoint_that_a_caller_may_not_see_is_one_that_does_not_exist(
    world: World, gateways: Gateways
) -> None:
    orders, billing = ApiKey.make("orders"), ApiKey.make("billing")
    at = await edge(world, gateways, [orders, billing])
    assert (await at.start(at.orders, orders.text)).json() == "x"
    assert (await at.start(at.billing, billing.text)).json() == "x"
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
    refused = await asyncio.to_thread(start, url, "job", "x", **{"x-api-key": orders.text})
    assert (refused.status, refused.json()["details"]["type"]) == (403, "UNAUTHORIZED")


async def test_who_shows_nothing_or_something_wrong_learns_nothing(world: World, gateways: Gateways) -> None:
    at = await edge(world, gateways, [ApiKey.make("orders")])
    stranger = ApiKey.make("orders")  # of the same name, but not in the file
    for key in ("", stranger.text, "x" * 4000):
        answers = [await at.start(name, key) for name in (at.orders, at.billing, "never-heard-of")]
        assert {answer.status for answer in answers} == {401}, answers
        assert len({answer.body for answer in answers}) == 1, answers
        assert answers[0].json()["details"]["type"] == "UNAUTHENTICATED"


async def test_a_key_is_changed_without_a_moment_in_which_neither_works(world: World, gateways: Gateways) -> None:
    old, new = ApiKey.make("orders"), ApiKey.make("orders")
    at = await edge(world, gateways, [old])

    async def reloads() -> float:
        metrics = await asyncio.to_thread(at.gateway.metrics)
        return metrics.sum("nexus_gateway_config_reloads_total", result="applied")

    for keys, works, does_not in (([old, new], [old, new], []), ([new], [new], [old])):
        before = await reloads()
        draft = Path(f"{at.file}.draft")
        draft.write_text(written(world, at.orders, keys))
        draft.replace(at.file)
        while await reloads() == before:
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
