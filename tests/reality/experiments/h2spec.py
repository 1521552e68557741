"""The conformance suite h2spec against the gateway, in the clear and over TLS: `make h2spec`, which installs it with Go.

Fails where a case fails three times in a row that is not among the exceptions; CONTRIBUTING.md gives the reasons.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

from harness.certificates import Authority
from harness.gateway import Gateway, configuration
from harness.processes import ROOT
from harness.stub import start_stub

from .attacks import PATH
from .setting import script

CLEAR, TLS = "in the clear", "over TLS"

FORGOTTEN = {
    "closed: Sends a DATA frame after sending RST_STREAM frame",
    "closed: Sends a HEADERS frame after sending RST_STREAM frame",
    "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream",
}
"""Frames for a stream that was just reset or answered: whether it is still known is a matter of time."""
EXCEPTIONS = {CLEAR: {"Sends invalid connection preface", *FORGOTTEN}, TLS: FORGOTTEN}

TRIES = 3

_FAILED = re.compile(r"×\s+\d+:\s+(.*)")


def settings(handler: str, more: str) -> Path:
    return configuration(f"""
listen: [{{ address: "127.0.0.1:0", http2: true{more} }}]
server: {{ max_cuts_per_peer: 1000 }}
endpoints: {{ shop: {{ external: {{ url: "http://{handler}" }} }} }}
""")


def failed(binary: Path, address: str, *flags: str) -> tuple[set[str], str]:
    """The cases that failed, and the summary."""
    host, _, port = address.rpartition(":")
    command = [str(binary), "-h", host, "-p", port, "-P", PATH, "-o", "3", *flags]
    told = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False).stdout
    summary = next((line for line in told.splitlines() if " tests, " in line), f"no summary:\n{told}")
    return set(_FAILED.findall(told)), summary


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--h2spec", type=Path, default=ROOT / ".venv/bin/h2spec", help="the command")
    parser.add_argument("--only", choices=[CLEAR, TLS])
    options = parser.parse_args()
    own = Authority().issue("gateway")
    ways = {
        CLEAR: ("", []),
        TLS: (f', tls: {{ certificate: "{own.certificate}", key: "{own.key}" }}', ["-t", "-k"]),
    }
    unexpected = {}
    for way, (more, flags) in ways.items():
        if options.only in (None, way):
            with ExitStack() as stack:
                stub, handler = await asyncio.to_thread(start_stub)
                stack.callback(stub.stop)
                gateway = Gateway(config=settings(handler, more), listen="")
                stack.callback(gateway.stop)
                await asyncio.to_thread(gateway.start)
                always = None
                for _ in range(TRIES):
                    cases, summary = await asyncio.to_thread(failed, options.h2spec, gateway.address, *flags)
                    print(f"{way}: {summary}", *(f"  failed: {case}" for case in sorted(cases)), sep="\n", flush=True)
                    always = cases if always is None else always & cases
                    if " tests, " in summary and always <= EXCEPTIONS[way]:
                        break
                else:
                    unexpected[way] = always
    if unexpected:
        raise AssertionError(f"failed {TRIES} times, and no exceptions: {unexpected}")


if __name__ == "__main__":
    script(main())
