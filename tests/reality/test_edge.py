"""The edge as it is shipped for Kubernetes, in a process: who is let in to what, and what becomes of a certificate that is
renewed in its secret."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from harness.across import Gateways, reloads
from harness.certificates import Authority, Issued, Mounted
from harness.gateway import Gateway, configuration
from harness.http import send
from harness.issuing import Issuing
from harness.processes import ROOT, scratch_folder
from harness.service import SERVICE
from harness.tokens import Issuer
from harness.traffic import start_headers
from harness.world import HANDLER_QUEUE, Lane

TOKEN = "planted-admin-token"


class Cluster(Issuer):
    """Kubernetes, as far as it tells who a service account is."""

    url = "https://kubernetes.default.svc.cluster.local"


@pytest.fixture
def kubernetes() -> Iterator[tuple[Cluster, Issuing]]:
    """A cluster, and where it publishes its keys."""
    cluster = Cluster()
    entries = json.loads(cluster.key_set().read_text())

    def tell(headers: Mapping[str, str], _body: str) -> tuple[int, object]:
        return (200, entries) if headers.get("authorization") == "Bearer planted-own" else (403, {})

    server = Issuing(tell)
    yield cluster, server
    server.stop()


def shipped(places: Mapping[str, str]) -> Path:
    """The configuration in the manifest, with other addresses and folders than it has in a pod."""
    objects = yaml.safe_load_all((ROOT / "deploy/kubernetes/edge.yaml").read_text())
    [text] = [found["data"]["gateway.yaml"] for found in objects if found and found["kind"] == "ConfigMap"]
    for was, now in places.items():
        assert was in text, was
        text = text.replace(was, now)
    # The harness says itself where the logs go, and reads addresses from lines of text.
    return configuration(text.replace("format: json", "format: text").replace("  audit_log: stdout", "  #"))


class Edge:
    """Such a gateway, and whom it believes."""

    def __init__(self, gateway: Gateway, authority: Authority, certificates: Mounted, endpoint: str) -> None:
        self.gateway, self.authority, self.certificates, self.endpoint = gateway, authority, certificates, endpoint

    async def start(self, shown: Issued | None = None, token: str = "", endpoint: str = "") -> tuple[int, bytes]:
        """A start of `echo` by whoever shows this."""
        context = self.authority.trusted(shown)
        path = f"/nexus/endpoints/{endpoint or self.endpoint}/services/{SERVICE}/echo"
        headers = start_headers(**({"Authorization": f"Bearer {token}"} if token else {}))

        def ask() -> tuple[int, bytes]:
            host, _, port = self.gateway.address.partition(":")
            connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
            try:
                connection.request("POST", path, b'"planted-x"', headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return await asyncio.to_thread(ask)

    def serial(self) -> int:
        """Of the certificate that it shows."""
        host, _, port = self.gateway.address.partition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            self.authority.trusted().wrap_socket(plain, server_hostname="localhost") as stream,
        ):
            return int(str((stream.getpeercert() or {})["serialNumber"]), 16)


@pytest_asyncio.fixture
async def edge(newest: Lane, gateways: Gateways, kubernetes: tuple[Cluster, Issuing]) -> Edge:
    """In front of a real cluster, where one endpoint stands for the `payments` of the rules."""
    _, keys = kubernetes
    authority = Authority()
    own = authority.issue("gateway")
    certificates = Mounted(ca_crt=authority.ca, tls_crt=own.certificate, tls_key=own.key)
    secrets = scratch_folder("secrets")
    (secrets / "admin-token").write_text(f"{TOKEN}\n")
    (secrets / "token").write_text("planted-own\n")
    (secrets / "callback-key").write_text(base64.b64encode(b"planted-".ljust(32, b"-")).decode() + "\n")
    endpoint = f"payments-{uuid.uuid4().hex[:8]}"
    await newest.handler.cluster.create_worker_endpoint(endpoint, HANDLER_QUEUE)
    config = shipped(
        {
            "0.0.0.0:7280": "127.0.0.1:0",
            "/run/secrets/nexus-gateway-tls": str(certificates.folder),
            "/run/secrets/nexus-gateway/": f"{secrets}/",
            "tls: { ca: /run/secrets/kubernetes/ca.crt }": "",
            "/run/secrets/kubernetes/": f"{secrets}/",
            "https://kubernetes.default.svc/openid/v1/jwks": keys.url,
            "http://temporal-frontend.temporal.svc.cluster.local:7243": newest.handler.cluster.url,
            "endpoints: [payments]": f"endpoints: [{endpoint}]",
        }
    )
    gateway = gateways(config=config, listen="")
    await asyncio.to_thread(gateway.start)
    return Edge(gateway, authority, certificates, endpoint)


def spiffe(namespace: str, name: str) -> list[str]:
    return [f"spiffe://cluster.local/ns/{namespace}/sa/{name}"]


async def test_the_shipped_edge_lets_in_whom_its_rules_name(
    edge: Edge, newest: Lane, kubernetes: tuple[Cluster, Issuing]
) -> None:
    cluster, _ = kubernetes
    orders = edge.authority.issue("orders", spiffe("orders", "orders"))
    token = cluster.service_account("payments", "payments")
    assert await edge.start(orders) == await edge.start(token=token) == (200, b'"planted-x"')
    told = [call.headers["nexus-gateway-caller"] for call in newest.handler.journal.calls if call.endpoint == edge.endpoint]
    assert told == ["orders", "payments"]
    # Known, but by no rule; known, but not for this; not known at all; a stranger's token; somebody else's certificate.
    elsewhere = edge.authority.issue("other", spiffe("other", "orders"))
    assert (await edge.start(elsewhere))[0] == 404
    assert (await edge.start(orders, endpoint="no-such-endpoint"))[0] == 404
    assert (await edge.start())[0] == 401
    assert (await edge.start(token=Cluster().service_account("payments", "payments")))[0] == 401
    with pytest.raises((OSError, http.client.HTTPException)):
        await edge.start(Authority().issue("orders", spiffe("orders", "orders")))
    assert len([call for call in newest.handler.journal.calls if call.endpoint == edge.endpoint]) == 2
    audit = [json.loads(line) for line in edge.gateway.audit_log().splitlines()]
    assert [line["decision"] for line in audit][:2] == ["allowed", "allowed"]
    assert {line["decision"] for line in audit[2:]} == {"denied", "unauthenticated"}, audit


async def test_the_admin_port_of_the_shipped_edge_wants_its_token(edge: Edge) -> None:
    def ask(page: str, token: str = "") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return send("GET", f"http://{edge.gateway.admin}{page}", headers=headers).status

    for page, token, status in (
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/metrics", "", 200),
        ("/endpoints", "", 401),
        ("/endpoints", "planted-wrong-token", 401),
        ("/endpoints", TOKEN, 200),
    ):
        assert await asyncio.to_thread(ask, page, token) == status, (page, token)


async def test_a_renewed_secret_changes_the_certificate_of_the_shipped_edge(edge: Edge) -> None:
    orders = edge.authority.issue("orders", spiffe("orders", "orders"))
    assert (await edge.start(orders))[0] == 200
    before = await reloads(edge.gateway)
    own = edge.authority.issue("gateway")
    edge.certificates.replace(**edge.certificates.pair(own))
    while await reloads(edge.gateway) == before:
        await asyncio.sleep(0.05)
    assert await asyncio.to_thread(edge.serial) == int(own.serial, 16)
    assert (await edge.start(orders))[0] == 200
