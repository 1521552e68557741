"""Tokens between the gateway, its neighbours and a real cluster: those by which handlers are told who calls, those that a
server hands out to the gateway, and those whose keys an issuer publishes."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from harness.across import (
    Across,
    ApiKey,
    Gateways,
    by_key,
    by_token,
    completions,
    of_caller,
    of_namespace,
    reloads,
    secret,
)
from harness.certificates import Mounted, openssl
from harness.gateway import Gateway
from harness.http import Answer
from harness.issuing import Issuing, Respond
from harness.planted import note_key, note_token
from harness.processes import scratch_folder
from harness.service import Job
from harness.tokens import Issuer
from harness.traffic import start
from harness.world import Lane

KINDS = {
    "P-256": (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "ES256"),
    "Ed25519": (("-algorithm", "ED25519",), "EdDSA"),
}
"""What a key that signs can be, how `openssl` makes it, and by which algorithm it signs."""


@pytest.fixture
def issuing() -> Iterator[Callable[[Respond], Issuing]]:
    """Makes servers that end with the test."""
    made: list[Issuing] = []

    def make(respond: Respond) -> Issuing:
        made.append(Issuing(respond))
        return made[-1]

    yield make
    for server in made:
        server.stop()


# --- who calls, signed ---


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, believed or not."""
    header, claims, _ = token.split(".")
    return json.loads(decoded(header)), json.loads(decoded(claims))


def integer(number: bytes) -> bytes:
    """A positive INTEGER in DER."""
    number = number.lstrip(b"\0")
    number = b"\0" + number if number[0] >= 128 else number
    return bytes([2, len(number)]) + number


def checks(key: Mapping[str, str], token: str) -> bool:
    """Whether `openssl` finds that the owner of this published key has signed this token."""
    folder = scratch_folder("check")
    told, _, signature = token.rpartition(".")
    signed = decoded(signature)
    if key["kty"] == "EC":
        # What precedes a point of P-256, and the key of Ed25519 below, where they say what they are (RFC 5480, RFC 8410).
        head = "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
        public = bytes.fromhex(head) + decoded(key["x"]) + decoded(key["y"])
        parts = integer(signed[:32]) + integer(signed[32:])
        signed = bytes([0x30, len(parts)]) + parts
    else:
        public = bytes.fromhex("302a300506032b6570032100") + decoded(key["x"])
    for name, content in (("key", public), ("told", told.encode()), ("signature", signed)):
        (folder / name).write_bytes(content)
    how = ["-rawin", "-digest", "sha256"] if key["kty"] == "EC" else ["-rawin"]
    command = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", str(folder / "key"), *how]
    try:
        openssl(*command, "-in", str(folder / "told"), "-sigfile", str(folder / "signature"))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_can_check_who_calls(newest: Lane, gateways: Gateways, kind: str) -> None:
    made, algorithm = KINDS[kind]
    file = scratch_folder("signing") / "callers.key"
    openssl("genpkey", *made, "-out", str(file))
    note_key(file)
    key = ApiKey.make("orders")
    across = Across(newest, gateways)
    shown = f"{{ header: {{ name: x-api-key, value: {secret(key.text)} }} }}"
    signing = f"callers: {{ signing_key: {file}, issuer: edge }}\n"
    await across.start(by_key("x-api-key", key) + signing, of_caller("orders", across.endpoint), shown, told="signed")
    forged = {"nexus-gateway-caller": "root", "nexus-gateway-caller-namespace": "root"}
    before = int(time.time())
    echoed, done = await asyncio.gather(
        across.run("echo", "planted-x", **forged), across.run("job", Job("planted-x"))
    )
    assert (echoed.result, done.result) == ("planted-x", "done: planted-x")
    [published] = (await asyncio.to_thread(across.edge.get, "/.well-known/jwks.json")).json()["keys"]
    assert published["alg"] == algorithm and "d" not in published
    calls = across.calls()
    assert {call.operation for call in calls} == {"echo", "job"}
    for call in calls:
        assert "nexus-gateway-caller-namespace" not in call.headers
        token = note_token(call.headers["nexus-gateway-caller"])
        header, claims = read(token)
        assert (header["alg"], header["kid"]) == (algorithm, published["kid"])
        assert (claims["iss"], claims["sub"], claims["aud"]) == ("edge", "orders", across.endpoint)
        assert claims["iat"] <= time.time() and before < claims["exp"] <= claims["iat"] + 60
        assert checks(published, token)
        head, _, signature = token.split(".")
        claimed = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "root"}).encode()).decode().rstrip("=")
        assert not checks(published, f"{head}.{claimed}.{signature}")


# --- tokens that a server hands out ---

LASTS = 4
"""Seconds: what is shown is changed while operations go."""


class Granting:
    """Hands out short tokens of an issuer to whoever shows the client's secret."""

    def __init__(self, issuer: Issuer, secret: str) -> None:
        self._issuer = issuer
        self._expected = "Basic " + base64.b64encode(f"edge:{secret}".encode()).decode()

    def __call__(self, headers: Mapping[str, str], body: str) -> tuple[int, Any]:
        if headers.get("authorization") != self._expected or body != "grant_type=client_credentials&scope=nexus":
            # Some servers tell what they were told.
            return 401, {"error": "invalid_client", "error_description": f"not {headers} {body}"}
        ends = int(time.time()) + LASTS + 1  # a whole second, and none too early
        token = self._issuer.service_account("shop", "orders", exp=ends, jti=str(time.monotonic_ns()))
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": LASTS}


def by_short_token(issuer: Issuer) -> str:
    """Believed not a second longer than it says."""
    return f"{by_token(issuer).rstrip()}\n      leeway: 0s\n"


def granted_by(server: Issuing, secret: str) -> str:
    return f"{{ oauth2: {{ token_url: '{server.url}', client_id: edge, client_secret: {secret}, scope: nexus }} }}"


async def test_a_sidecar_shows_tokens_that_are_fetched_anew_before_they_end(
    newest: Lane, gateways: Gateways, issuing: Callable[[Respond], Issuing]
) -> None:
    issuer = Issuer()
    server = issuing(Granting(issuer, "planted-client-secret"))
    across = Across(newest, gateways)
    shown = granted_by(server, secret("planted-client-secret"))
    await across.start(by_short_token(issuer), of_namespace("shop", across.endpoint), shown)
    url = across.near.target_url(across.endpoint)
    while server.answered < 3:  # the first of them has ended by then
        # Less than a token lasts: none can wait for the next one.
        answer = await asyncio.to_thread(start, url, "echo", "planted-x", **{"Request-Timeout": "3s"})
        assert answer.status == 200, answer
    done = await across.run("job", Job("planted-x"))
    assert done.result == "done: planted-x"
    while not await completions(across.near, across.endpoint):
        await asyncio.sleep(0.05)
    fetched = (await asyncio.to_thread(across.near.metrics)).rows("nexus_gateway_credentials_refreshes_total")
    assert {labels["result"] for labels, count in fetched if count} == {"ok"}


async def test_a_wrong_secret_is_told_to_the_operator_and_mended_without_a_restart(
    newest: Lane, gateways: Gateways, issuing: Callable[[Respond], Issuing]
) -> None:
    issuer = Issuer()
    server = issuing(Granting(issuer, "planted-client-secret"))
    across, files = Across(newest, gateways), Mounted(secret="planted-wrong-secret")
    shown = granted_by(server, f'"${{file:{files.path("secret")}}}"')
    await across.start(by_short_token(issuer), of_namespace("shop", across.endpoint), shown)
    url = across.near.target_url(across.endpoint)
    answer = await asyncio.to_thread(start, url, "echo", "planted-x")
    assert (answer.status, answer.headers["nexus-gateway-failure"]) == (503, "no_credentials"), answer
    [warning, *_] = [line for line in across.near.output().splitlines() if "cannot fetch a token" in line]
    assert "invalid_client" in warning and f"endpoints.{across.endpoint}" in warning and server.url in warning
    before = await reloads(across.near)
    files.replace(secret="planted-client-secret")
    while await reloads(across.near) == before:
        await asyncio.sleep(0.05)
    assert (await asyncio.to_thread(start, url, "echo", "planted-x")).json() == "planted-x"


# --- keys that an issuer publishes ---


class Published:
    """A gateway in front of the cluster that believes an issuer by the keys at its URL."""

    def __init__(self, server: Issuing, gateway: Gateway, endpoint: str) -> None:
        self.server, self.gateway, self.endpoint = server, gateway, endpoint

    async def call(self, token: str) -> Answer:
        shown = {"authorization": f"Bearer {token}"}
        return await asyncio.to_thread(start, self.gateway.target_url(self.endpoint), "echo", "planted-x", **shown)

    async def fetches(self, result: str) -> float:
        metrics = await asyncio.to_thread(self.gateway.metrics)
        return metrics.sum("nexus_gateway_jwks_fetches_total", result=result)


def keys(*issuers: Issuer) -> Respond:
    """Publishes the keys of these."""
    entries = [key for issuer in issuers for key in json.loads(issuer.key_set().read_text())["keys"]]
    return lambda _headers, _body: (200, {"keys": entries})


async def test_keys_that_are_published_change_while_callers_call_and_outlive_their_server(
    newest: Lane, gateways: Gateways, issuing: Callable[[Respond], Issuing]
) -> None:
    old, new = Issuer("k1"), Issuer("k2")
    server = issuing(keys(old))
    across = Across(newest, gateways)
    authentication = by_token(old).replace(f"file: {old.key_set()}", f"url: {server.url}, every: 24h")
    await across.start(authentication, of_namespace("shop", across.endpoint))
    at = Published(server, across.edge, across.endpoint)
    by_old, by_new = (issuer.service_account("shop", "orders") for issuer in (old, new))
    assert (await at.call(by_old)).status == 200
    # So soon after a look nobody knows whether that key has been published since.
    assert (await at.call(by_new)).status in (401, 503)

    # The issuer changes its key. A token by a key that is not there has the set fetched anew, though not all the time.
    server.respond = keys(old, new)
    while (answer := await at.call(by_new)).status in (401, 503):
        assert (await at.call(by_old)).status == 200
        await asyncio.sleep(0.1)
    assert answer.status == (await at.call(by_old)).status == 200
    assert await at.fetches("ok") == 2

    # And is away when it is asked again: what it said last holds.
    server.stop()
    stranger = Issuer("k3").service_account("shop", "orders")
    while not await at.fetches("error"):
        assert (await at.call(stranger)).status == 503
        assert (await at.call(by_old)).status == (await at.call(by_new)).status == 200
        await asyncio.sleep(0.1)
    unknown = await at.call(stranger)
    assert (unknown.status, unknown.headers["nexus-gateway-failure"]) == (503, "authentication_unavailable")
    assert (await at.call(by_old)).status == (await at.call(by_new)).status == 200
    assert "cannot fetch the keys of tokens" in at.gateway.output()
