"""Compares the gateway with nginx as a plain reverse proxy: CPU per request, requests per second, memory.

Each proxy runs alone under load on one core; the load generator (wrk) and a cheap upstream (nginx, `return 200`) share
the other. What is compared is the proxy's own CPU time divided by the requests it completed, since requests per second
also depend on the other core. Runs are interleaved (A B A B …) and medians reported, because machines drift.

Needs Linux, two cores, and the Debian packages nginx-light, wrk and util-linux (taskset).
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from servers import CONTENDERS, Bench, Contender, Server, Upstream, start_gateway, start_upstream
from traffic import (
    BODY_BYTES,
    CALLBACK,
    OPERATION,
    REQUEST_BODY,
    RESPONSE_BODY,
    SERVICE,
    endpoint_name,
    operation_path,
    request_headers,
    request_id,
    run_wrk,
    write_requests,
)

ROOT = Path(__file__).resolve().parents[2]
PROXY_CORE, LOAD_CORE = 0, 1
WARM_UP_SECONDS = 1
MEMORY_AIMS_MIB = {0: 20, 10_000: 30}
# What a comparison should come to, by its base and the other.
AIMS = {
    ("nginx", "gateway"): " (aim: a ratio of at most 1.00)",
    ("nginx", "gateway-everything"): " (aim: a ratio of at most 1.00)",
    ("gateway-bare", "gateway-everything"): " (aim: at most +1.50 µs)",
}


@dataclass(frozen=True)
class Run:
    """One timed run of one contender."""

    cpu_us: float
    per_second: float
    busy: float
    p50_ms: float
    p99_ms: float


def verify(upstream: Upstream, proxy: Server, contender: Contender, number: int) -> None:
    """One request through the proxy, compared with what the upstream saw; one to an unknown endpoint is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    connection.request("POST", operation_path(number), REQUEST_BODY, request_headers(number) | {"Bench-Verify": "1"})
    answer = connection.getresponse()
    body, content_type = answer.read().decode(), answer.headers["Content-Type"]
    if (answer.status, body, content_type) != (200, RESPONSE_BODY, "application/json"):
        raise RuntimeError(f"{proxy.name} answered {answer.status} {content_type} {body!r}")

    expected = {
        "method": "POST",
        "path": f"{contender.target(number)}/{SERVICE}/{OPERATION}?callback={CALLBACK}",
        "request_id": request_id(number),
        "token": request_headers(number)["Nexus-Callback-Temporal-Callback-Token"],
        "content_length": str(BODY_BYTES),
        "content_type": "application/json",
    }
    seen = last_seen(upstream, proxy)
    wrong = {name: (seen[name], value) for name, value in expected.items() if seen[name] != value}
    if wrong:
        raise RuntimeError(f"through {proxy.name} the upstream saw, instead of what it should: {wrong}")

    connection.request("POST", operation_path(number).replace(endpoint_name(number), "nobody"), REQUEST_BODY)
    if (refused := connection.getresponse()).status != 404:
        raise RuntimeError(f"{proxy.name} answered {refused.status} for an unknown endpoint")
    connection.close()


def last_seen(upstream: Upstream, proxy: Server) -> dict[str, str]:
    """What the upstream logged of the one request; it logs after it answered."""
    deadline = time.monotonic() + 2
    while not (text := upstream.seen.read_text()).endswith("\n"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the upstream saw no request from {proxy.name}")
        time.sleep(0.01)
    # The upstream appends, so the file can be cut between requests.
    os.truncate(upstream.seen, 0)
    seen: dict[str, str] = json.loads(text)
    return seen


def one_run(proxy: Server, requests: Path, connections: int, seconds: float) -> Run:
    cpu = proxy.cpu_seconds()
    load = run_wrk(proxy.port, requests, LOAD_CORE, connections, seconds)
    cpu = proxy.cpu_seconds() - cpu
    if load.errors or load.requests == 0:
        raise RuntimeError(f"{proxy.name}: {load.requests} requests, errors {load.errors}; it said:\n{proxy.said()}")
    return Run(cpu / load.requests * 1e6, load.requests / load.seconds, cpu / load.seconds, load.p50_ms, load.p99_ms)


def compare_cpu(options: argparse.Namespace, directory: Path, servers: list[Server]) -> None:
    upstream = start_upstream(directory, LOAD_CORE)
    servers.append(upstream.server)
    bench = Bench(directory, options.gateway_bin, upstream.server.port, options.endpoints)
    requests = directory / "requests"
    write_requests(requests, options.endpoints, options.distinct)

    proxies: list[tuple[Contender, Server]] = []
    for position, name in enumerate(options.contenders):
        label = name if name not in options.contenders[:position] else f"{name}-{position + 1}"
        server = CONTENDERS[name].start(bench, label, PROXY_CORE)
        servers.append(server)
        proxies.append((CONTENDERS[name], server))

    runs: dict[str, list[Run]] = {server.name: [] for _, server in proxies}
    for round_number in range(options.rounds):
        for contender, server in proxies:
            verify(upstream, server, contender, round_number * 997 % options.endpoints)
            if round_number == 0:
                run_wrk(server.port, requests, LOAD_CORE, options.connections, WARM_UP_SECONDS)
            run = one_run(server, requests, options.connections, options.seconds)
            runs[server.name].append(run)
            print(
                f"round {round_number + 1}/{options.rounds}  {server.name:20} {run.cpu_us:6.2f} µs/request"
                f"  {run.per_second:8.0f} requests/s  core {run.busy:4.0%} busy",
                flush=True,
            )
    report_cpu(options, proxies, runs)


def report_cpu(
    options: argparse.Namespace, proxies: list[tuple[Contender, Server]], runs: dict[str, list[Run]]
) -> None:
    print(
        f"\n{options.endpoints} endpoints, {options.connections} connections, {BODY_BYTES} B bodies, a core per proxy;"
        f" medians of {options.rounds} runs of {options.seconds:g} s\n"
    )
    print(
        f"{'':20} {'CPU µs/request':>22} {'requests/s':>11} {'core busy':>9} {'p50 ms':>7} {'p99 ms':>7} {'RSS MiB':>7}"
    )
    for _, server in proxies:
        of = runs[server.name]
        cpu = [run.cpu_us for run in of]
        spread = f"{statistics.median(cpu):.2f} ({min(cpu):.2f}–{max(cpu):.2f})"
        print(
            f"{server.name:20} {spread:>22} {statistics.median(run.per_second for run in of):>11.0f}"
            f" {statistics.median(run.busy for run in of):>9.0%} {statistics.median(run.p50_ms for run in of):>7.2f}"
            f" {statistics.median(run.p99_ms for run in of):>7.2f} {server.memory_mib()['VmRSS']:>7.1f}"
        )
    base = runs[proxies[0][1].name]
    for contender, server in proxies[1:]:
        # Neighbouring runs are compared with each other, so that drift of the machine cancels out.
        ratio = statistics.median(run.cpu_us / other.cpu_us for run, other in zip(runs[server.name], base, strict=True))
        rate = statistics.median(
            run.per_second / other.per_second for run, other in zip(runs[server.name], base, strict=True)
        )
        more = statistics.median(run.cpu_us - other.cpu_us for run, other in zip(runs[server.name], base, strict=True))
        aim = AIMS.get((proxies[0][0].name, contender.name), "")
        print(
            f"\n{server.name} ÷ {proxies[0][1].name}: CPU per request {ratio:.2f}, {more:+.2f} µs{aim},"
            f" requests/s {rate:.2f}"
        )


def measure_memory(options: argparse.Namespace, directory: Path, servers: list[Server]) -> None:
    """The gateway at rest, with its default number of workers, before its first request."""
    print(f"\n{'gateway, idle':24} {'VmRSS MiB':>10} {'Pss MiB':>8} {'peak MiB':>9}")
    for endpoints in dict.fromkeys((0, options.endpoints)):
        # Nothing listens on port 9: nothing is discovered, so nothing is asked of it.
        bench = Bench(directory, options.gateway_bin, 9, endpoints)
        server = start_gateway(bench, f"idle-{endpoints}", core=None, workers=None)
        servers.append(server)
        time.sleep(2)
        memory = server.memory_mib()
        aim = f"  (aim: at most {MEMORY_AIMS_MIB[endpoints]})" if endpoints in MEMORY_AIMS_MIB else ""
        label = f"{endpoints} endpoints"
        print(f"{label:24} {memory['VmRSS']:>10.1f} {memory['Pss']:>8.1f} {memory['VmHWM']:>9.1f}{aim}", flush=True)
        server.stop()


def options_from(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="length of a run (default 5)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each contender (default 7)")
    parser.add_argument("--endpoints", type=int, default=10_000, help="size of the table (default 10000)")
    parser.add_argument("--distinct", type=int, default=1_000, help="endpoints that are called (default 1000)")
    parser.add_argument("--connections", type=int, default=64, help="kept-alive connections (default 64)")
    parser.add_argument("--only", choices=("cpu", "memory"), help="one half of the measurements")
    parser.add_argument("--gateway-bin", type=Path, default=ROOT / "target/release/nexus-gateway")
    parser.add_argument(
        "--contenders", default="nginx,gateway", type=lambda text: text.split(","),
        help=f"what to compare, the first being the base: {', '.join(CONTENDERS)} (default nginx,gateway)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.gateway_bin = options.gateway_bin.resolve()
    if unknown := [name for name in options.contenders if name not in CONTENDERS]:
        parser.error(f"unknown contender {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    if min(options.seconds, options.rounds, options.endpoints, options.distinct, options.connections) < 1:
        parser.error("seconds, rounds, endpoints, distinct and connections are at least 1")
    return options


def missing_needs(options: argparse.Namespace) -> list[str]:
    """What keeps this machine from measuring, in words that say what to do."""
    missing = []
    gateway_used = options.only != "cpu" or any(name.startswith("gateway") for name in options.contenders)
    if gateway_used and not os.access(options.gateway_bin, os.X_OK):
        missing.append(f"{options.gateway_bin} is not there: build it with `cargo build --release`")
    if options.only != "memory":
        packages = {"nginx": "nginx-light", "wrk": "wrk", "taskset": "util-linux"}
        missing += [
            f"{tool} is not there: install the Debian package {package}"
            for tool, package in packages.items()
            if shutil.which(tool) is None
        ]
        if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
            missing.append("cores 0 and 1 are needed: one for the proxy, one for the load")
    return missing


def main() -> int:
    options = options_from(sys.argv[1:])
    # Debian keeps nginx where the path of an ordinary user does not lead.
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin"
    if missing := missing_needs(options):
        print("\n".join(missing), file=sys.stderr)
        return 69
    # A `kill` of this script runs the clean-up below as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="nexus-gateway-bench-") as directory:
        try:
            if options.only != "memory":
                compare_cpu(options, Path(directory), servers)
            if options.only != "cpu":
                measure_memory(options, Path(directory), servers)
        except RuntimeError as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
        finally:
            for server in reversed(servers):
                server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
