"""Two gateways between two clusters, and the ways in which the one at the edge can know its callers."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from .caller import Outcome, Plan, call
from .gateway import Gateway, binary, configuration
from .planted import note
from .processes import free_port, scratch_folder
from .service import Call, Job
from .tokens import Issuer
from .world import HANDLER_QUEUE, Lane

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


async def reloads(gateway: Gateway) -> float:
    metrics = await asyncio.to_thread(gateway.metrics)
    return metrics.sum("nexus_gateway_config_reloads_total", result="applied")


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

    async def start(self, authentication: str, rules: str, shown: str = "", told: str = "header") -> Across:
        """`shown`: the sidecar's `credentials`. `told`: how the cluster is told who calls."""
        await self.lane.handler.cluster.create_worker_endpoint(self.endpoint, HANDLER_QUEUE)
        handler = f'clusters: {{ handler: {{ url: "{self.lane.handler.cluster.url}", caller: {told} }} }}\n'
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
