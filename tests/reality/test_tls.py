"""TLS as strangers see it: `openssl` and `curl` with right and wrong certificates, and certificates that change under
load."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.abuse import PATH
from harness.certificates import Authority, Issued, Mounted
from harness.gateway import Gateway, configuration
from harness.polite import Polite
from harness.stub import RESULT, start_stub

Gateways = Callable[..., Gateway]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def handler() -> Iterator[str]:
    """The address of a handler that answers everything."""
    stub, address = start_stub()
    yield address
    stub.stop()


@pytest.fixture
def files(authority: Authority) -> Mounted:
    """What the gateway reads: its own certificate, and who issues those of its clients."""
    own = authority.issue("gateway")
    return Mounted(ca_crt=authority.ca, tls_crt=own.certificate, tls_key=own.key)


def settings(files: Mounted, handler: str, more: str = "") -> Path:
    return configuration(f"""
listen:
  - address: 127.0.0.1:0
    tls:
      certificate: {files.path("tls_crt")}
      key: {files.path("tls_key")}
      clients: {{ ca: {files.path("ca_crt")} }}
      {more}
endpoints:
  shop: {{ external: {{ url: "http://{handler}" }} }}
""")


def curl(gateway: Gateway, ca: Path, shown: Issued | None = None, *flags: str) -> tuple[int, str]:
    """How it ended, and the status and protocol of the answer."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--cacert", str(ca), "--output", "/dev/null"]
    command += ["--write-out", "%{http_code} %{http_version}", "--data", "{}", *flags]
    if shown:
        command += ["--cert", str(shown.certificate), "--key", str(shown.key)]
    command.append(f"https://localhost:{gateway.address.rpartition(':')[2]}{PATH}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def s_client(gateway: Gateway, ca: Path, *flags: str) -> str:
    """All that `openssl s_client` tells of a handshake."""
    command = ["openssl", "s_client", "-connect", gateway.address, "-CAfile", str(ca), *flags]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


async def until_reloaded(gateway: Gateway, result: str, more_than: float) -> None:
    while (await reloads(gateway, result)) <= more_than:
        await asyncio.sleep(0.05)


async def reloads(gateway: Gateway, result: str) -> float:
    return (await asyncio.to_thread(gateway.metrics)).sum("nexus_gateway_config_reloads_total", result=result)


def test_who_shows_no_good_certificate_is_not_let_in(
    authority: Authority, files: Mounted, handler: str, gateways: Gateways
) -> None:
    gateway = gateways(config=settings(files, handler), listen="").start()
    right = authority.issue("orders")
    assert curl(gateway, authority.ca, right, "--http1.1") == (0, "200 1.1")
    assert curl(gateway, authority.ca, right, "--http2") == (0, "200 2")
    stranger = Authority("authority")  # of the same name, with another key
    for shown in (None, stranger.issue("orders"), authority.issue("orders", expired=True)):
        status, told = curl(gateway, authority.ca, shown)
        assert status != 0 and told.startswith("000"), (shown, status, told)
    # And a client does not take the gateway for what it is not.
    assert curl(gateway, stranger.ca, right) == (60, "000 0")
    assert curl(gateway, authority.ca, right, "--http1.1") == (0, "200 1.1")


def test_only_good_versions_of_tls_are_spoken(
    authority: Authority, files: Mounted, handler: str, gateways: Gateways
) -> None:
    right = authority.issue("orders")
    shown = ("-cert", str(right.certificate), "-key", str(right.key))
    only13 = gateways(config=settings(files, handler), listen="").start()
    told = s_client(only13, authority.ca, "-tls1_3", "-alpn", "h2,http/1.1", *shown)
    assert "Verification: OK" in told and "ALPN protocol: h2" in told, told
    assert "Cipher is (NONE)" in s_client(only13, authority.ca, "-tls1_2", *shown)
    both = gateways(config=settings(files, handler, 'min_version: "1.2"'), listen="").start()
    for version in ("-tls1_2", "-tls1_3"):
        assert "Verification: OK" in s_client(both, authority.ca, version, *shown)
    assert "Cipher is (NONE)" in s_client(both, authority.ca, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", *shown)


def serial(gateway: Gateway, ca: Path) -> str:
    """That of the certificate which the gateway shows."""
    told = s_client(gateway, ca, "-showcerts")
    own = told[told.index("-----BEGIN CERTIFICATE") : told.index("-----END CERTIFICATE-----")]
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"],
        input=f"{own}-----END CERTIFICATE-----\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip().partition("=")[2]


async def test_certificates_change_under_load_and_no_request_fails(
    authority: Authority, files: Mounted, handler: str, gateways: Gateways
) -> None:
    gateway = gateways(config=settings(files, handler), listen="")
    await asyncio.to_thread(gateway.start)
    contexts = [authority.trusted(authority.issue("orders"))]
    async with Polite(gateway.address, PATH, rate=30, fresh=2, expected=RESULT, tls=lambda: contexts[-1]) as client:
        await client.until_sent()
        for _ in range(3):
            before = await reloads(gateway, "applied")
            own = authority.issue("gateway")
            files.replace(**files.pair(own))
            await until_reloaded(gateway, "applied", before)
            assert await asyncio.to_thread(serial, gateway, authority.ca) == own.serial
            await client.until_sent()

        # Another authority: first both are believed, then what is shown changes, then the old one goes, and with it those
        # whose certificate it issued: clients have got another one, and connections with it, before.
        new = Authority("another authority")
        both = authority.ca.read_text() + new.ca.read_text()
        before = await reloads(gateway, "applied")
        files.replace(ca_crt=both)
        await until_reloaded(gateway, "applied", before)
        trusting = new.trusted(new.issue("orders"))
        trusting.load_verify_locations(authority.ca)
        contexts.append(trusting)
        client.renew()
        await client.until_sent()
        before = await reloads(gateway, "applied")
        files.replace(ca_crt=new.ca, **files.pair(new.issue("gateway")))
        await until_reloaded(gateway, "applied", before)
        await client.until_sent()
        assert curl(gateway, new.ca, authority.issue("orders"))[0] != 0, "the old authority is not believed any more"
    assert client.failures == []


@pytest.mark.parametrize("broken", ["no certificate", "the key of another", "nothing"])
async def test_a_broken_file_leaves_the_last_good_certificate_in_force(
    broken: str, authority: Authority, files: Mounted, handler: str, gateways: Gateways
) -> None:
    gateway = gateways(config=settings(files, handler), listen="")
    await asyncio.to_thread(gateway.start)
    before = await asyncio.to_thread(serial, gateway, authority.ca)
    context = authority.trusted(authority.issue("orders"))
    async with Polite(gateway.address, PATH, rate=30, expected=RESULT, tls=lambda: context) as client:
        bad = {
            "no certificate": {"tls_crt": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
            "the key of another": {"tls_key": authority.issue("gateway").key},
            "nothing": {"tls_crt": "", "tls_key": "", "ca_crt": ""},
        }[broken]
        files.replace(**bad)
        await until_reloaded(gateway, "refused", 0)
        await client.until_sent()
        metrics = await asyncio.to_thread(gateway.metrics)
        assert metrics.sum("nexus_gateway_config_last_reload_successful") == 0
        assert await asyncio.to_thread(serial, gateway, authority.ca) == before
        # And a good one ends that.
        own = authority.issue("gateway")
        files.replace(ca_crt=authority.ca, **files.pair(own))
        await until_reloaded(gateway, "applied", 0)
        assert await asyncio.to_thread(serial, gateway, authority.ca) == own.serial
    assert client.failures == []
