"""The processes of the comparison: the cheap upstream, nginx as a proxy, the gateway. Each knows its configuration."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from traffic import RESPONSE_BODY, endpoint_name

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
NAMESPACE = "payments"


@dataclass(frozen=True)
class Server:
    """A running process and the port it serves."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """SIGTERM to this process only; nginx's master and the gateway end their own children."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] or "(nothing)"

    def pids(self) -> list[int]:
        """The process and its descendants."""
        found = [self.process.pid]
        for pid in found:
            found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all threads so far."""
        ticks = 0
        for pid in self.pids():
            # The name in brackets may hold spaces; utime and stime are fields 14 and 15.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_SECOND

    def memory_mib(self) -> dict[str, float]:
        """VmRSS, its peak VmHWM, and Pss, summed over the processes."""
        sums = {"VmRSS": 0, "VmHWM": 0, "Pss": 0}
        for pid in self.pids():
            for file in ("status", "smaps_rollup"):
                for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in sums:
                        sums[name] += int(value.split()[0])
        return {name: kib / 1024 for name, kib in sums.items()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def spawn(name: str, command: list[str], port: int, directory: Path, core: int | None) -> Server:
    """Start, pinned to `core` unless that is None, and wait until the port accepts."""
    pin = [] if core is None else ["taskset", "-c", str(core)]
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(pin + command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    server = Server(name, port, process, log)
    try:
        wait_until_serving(server)
    except BaseException:
        server.stop()
        raise
    return server


def wait_until_serving(server: Server) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            return
        except OSError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                state = "ended" if server.process.poll() is not None else "runs"
                raise RuntimeError(
                    f"{server.name} {state} and does not serve port {server.port}; it said:\n{server.said()}"
                ) from None
            time.sleep(0.02)


def nginx(name: str, http: str, port: int, directory: Path, core: int) -> Server:
    """nginx with one worker process, all its files in `directory`."""
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "\n  ".join(
        f"{kind}_temp_path {directory}/{name}-{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = directory / f"{name}.conf"
    config.write_text(f"""\
{user}
worker_processes 1;
daemon off;
pid {directory}/{name}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  server_tokens off;
  # Both sides keep their connections: reconnecting every 1,000 requests, the default, is not what is measured.
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  {temporary}
  {http}
}}
""")
    return spawn(name, ["nginx", "-p", str(directory), "-c", str(config)], port, directory, core)


@dataclass(frozen=True)
class Upstream:
    """The cheap upstream: answers at once, knows only rewritten paths, logs what carries `Bench-Verify`."""

    server: Server
    seen: Path


def endpoint_id(number: int) -> str:
    return f"5eed0000-0000-4000-8000-{number:012x}"


def start_upstream(directory: Path, core: int) -> Upstream:
    port, seen = free_port(), directory / "seen.log"
    http = f"""\
log_format seen escape=json '{{"method":"$request_method","path":"$request_uri","host":"$http_host",'
    '"request_id":"$http_nexus_request_id","token":"$http_nexus_callback_temporal_callback_token",'
    '"content_length":"$http_content_length","content_type":"$http_content_type"}}';
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    access_log {seen} seen if=$http_bench_verify;
    default_type application/json;
    location /nexus/endpoints/5eed0000- {{ return 200 '{RESPONSE_BODY}'; }}
    location /namespaces/{NAMESPACE}/task-queues/ {{ return 200 '{RESPONSE_BODY}'; }}
    location / {{ return 404; }}
  }}"""
    return Upstream(nginx("upstream", http, port, directory, core), seen)


@dataclass(frozen=True)
class Bench:
    """What every contender is given."""

    directory: Path
    gateway_bin: Path
    upstream_port: int
    endpoints: int


@dataclass(frozen=True)
class Contender:
    """A proxy to measure. `target(number)` is the path, without service and operation, that the upstream must see."""

    name: str
    start: Callable[[Bench, str, int], Server]
    target: Callable[[int], str]


def nginx_proxy(bench: Bench, name: str, core: int) -> Server:
    """Routing alone: a hash lookup from name to id, a kept connection, no log."""
    port = free_port()
    table = bench.directory / f"{name}.map"
    table.write_text("".join(f"{endpoint_name(n)} {endpoint_id(n)};\n" for n in range(bench.endpoints)))
    http = f"""\
map_hash_max_size {max(2048, 2 * bench.endpoints)};
  map_hash_bucket_size 128;
  map $endpoint $endpoint_id {{
    default unknown;
    include {table};
  }}
  upstream cheap {{
    server 127.0.0.1:{bench.upstream_port};
    keepalive 128;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/nexus/endpoints/(?<endpoint>[^/]+)/services/(?<rest>.+)$ {{
      proxy_pass http://cheap/nexus/endpoints/$endpoint_id/services/$rest$is_args$args;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
    location / {{ return 404; }}
  }}"""
    return nginx(name, http, port, bench.directory, core)


def gateway_config(bench: Bench, port: int, admin: int, workers: int | None, state: Path, extra: str) -> str:
    names = [endpoint_name(number) for number in range(bench.endpoints)]
    endpoints = "\n".join(
        f"  {name}: {{ worker: {{ cluster: home, namespace: {NAMESPACE}, task_queue: {name} }} }}" for name in names
    )
    server = "" if workers is None else f"server: {{ workers: {workers} }}"
    return f"""\
listen: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
{server}
state: {{ directory: {state} }}
clusters:
  home: {{ url: "http://127.0.0.1:{bench.upstream_port}", discover: false }}
{"endpoints:" if endpoints else ""}
{endpoints}
{extra}
"""


def start_gateway(bench: Bench, name: str, core: int | None, workers: int | None, extra: str = "") -> Server:
    port, admin = free_port(), free_port()
    state = bench.directory / f"{name}-state"
    state.mkdir(exist_ok=True)
    config = bench.directory / f"{name}.yaml"
    config.write_text(gateway_config(bench, port, admin, workers, state, extra))
    return spawn(name, [str(bench.gateway_bin), "run", "--config", str(config)], port, bench.directory, core)


def gateway_with(name: str, extra: str) -> Contender:
    """The gateway with `extra` lines of configuration: top-level keys that `gateway_config` does not set."""

    def start(bench: Bench, label: str, core: int) -> Server:
        return start_gateway(bench, label, core, 1, extra)

    return Contender(name, start, lambda n: f"/namespaces/{NAMESPACE}/task-queues/{endpoint_name(n)}/nexus-services")


# Nothing waits, is tried again or is refused, and no feature does more than that needs.
BARE = "policies: [{ hold: false, retry: off }]"

# Every feature of a policy, with bounds that this load never meets.
EVERYTHING = """\
policies:
  - timeout: 10s
    hold: true
    rate_limit: { per: [caller, endpoint], rate: 1000000/s, burst: 100000, max_wait: 500ms }
    concurrency: { max: 10000, max_wait: 500ms, adaptive: true }
    retry: { attempts: 2, on: [connect, unavailable, reset], budget: 20% }
    breaker: { failure_rate: 50%, min_requests: 20, window: 10s, open_for: 5s, per: operation }
"""

# The contenders by name. The first of a comparison is what the others are divided by; a feature is measured by
# adding it here and comparing `--contenders gateway,gateway-with-it`. One name given twice shows the noise.
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("nginx", nginx_proxy, lambda n: f"/nexus/endpoints/{endpoint_id(n)}/services"),
        gateway_with("gateway", ""),
        gateway_with("gateway-bare", BARE),
        gateway_with("gateway-everything", EVERYTHING),
    )
}
