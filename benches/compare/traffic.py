"""What is sent and answered: Nexus starts as a Temporal caller sends them, one answer, and wrk around them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

BODY_BYTES = 200
HERE = Path(__file__).parent
SERVICE, OPERATION = "payments.PaymentService", "charge"
CALLBACK = "http%3A%2F%2F127.0.0.1%3A7243%2Fnamespaces%2Forders%2Fnexus%2Fcallback"


def endpoint_name(number: int) -> str:
    return f"payments-{number:05}"


def operation_path(number: int) -> str:
    """The path a caller uses: by endpoint name."""
    return f"/nexus/endpoints/{endpoint_name(number)}/services/{SERVICE}/{OPERATION}?callback={CALLBACK}"


def request_id(number: int) -> str:
    return f"3f6c1a52-9d1e-4c0b-8f57-{number:012x}"


def json_of(size: int, **fields: object) -> str:
    """A JSON object of exactly `size` bytes."""
    bare = json.dumps(fields | {"note": ""})
    return json.dumps(fields | {"note": "x" * (size - len(bare))})


REQUEST_BODY = json_of(BODY_BYTES, orderId="order-2041", amountCents=129900, currency="EUR")
RESPONSE_BODY = json_of(BODY_BYTES, paymentId="payment-77120", state="captured", currency="EUR")


def request_headers(number: int) -> dict[str, str]:
    """Headers of a start from a Temporal 1.32 server, in a typical order and of typical sizes."""
    return {
        "User-Agent": "temporal-go-sdk/1.36.0",
        "Content-Type": "application/json",
        "Content-Length": str(BODY_BYTES),
        "Nexus-Request-Id": request_id(number),
        "Nexus-Link": "<temporal:///namespaces/orders/workflows/order-2041/0198a3c2-7f4e-7d11-9d0e-2b1d4a5c6e7f/history"
        "?eventID=5&eventType=NexusOperationScheduled&referenceType=EventReference>; "
        'type="temporal.api.common.v1.Link.WorkflowEvent"',
        "Nexus-Callback-Temporal-Callback-Token": '{"v":1,"d":"' + "CiQwMTk4YTNjMi03ZjRlLTdkMTEt" * 5 + '"}',
        "Request-Timeout": "9999ms",
        "Operation-Timeout": "59999ms",
        "Temporal-Nexus-Failure-Support": "true",
        "Accept-Encoding": "gzip",
    }


def request_bytes(number: int) -> bytes:
    lines = [f"POST {operation_path(number)} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in request_headers(number).items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + REQUEST_BODY).encode()


def write_requests(file: Path, endpoints: int, distinct: int) -> None:
    """`distinct` requests, their endpoints spread evenly over all of the table."""
    step = max(1, endpoints // distinct)
    file.write_bytes(b"\0".join(request_bytes(number) for number in range(0, endpoints, step)))


@dataclass(frozen=True)
class Load:
    """One run of wrk."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]


def run_wrk(port: int, requests: Path, core: int, connections: int, seconds: float) -> Load:
    command = [
        "taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "5s",
        "-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{port}", "--", str(requests),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode != 0 or line is None:
        raise RuntimeError(f"wrk failed: {done.stdout}{done.stderr}")
    fields = {name: int(value) for name, value in (pair.split("=") for pair in line.split()[1:])}
    errors = {name: fields[name] for name in ("connect", "read", "write", "status", "timeout") if fields[name]}
    return Load(fields["requests"], fields["microseconds"] / 1e6, fields["p50"] / 1000, fields["p99"] / 1000, errors)
