"""The gateway's own process: started on free ports, watched through its admin port, ended by SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import planted
from .http import Answer, Metrics, probe, send
from .processes import ROOT, Child, scratch_folder

_ADDRESS = re.compile(r"(data|admin) port listening.*?address=\"?([\d.]+:\d+)")
_PAGES = ("/healthz", "/readyz", "/metrics", "/endpoints", "/breakers", "/parked", "/.well-known/jwks.json")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def binary() -> Path:
    """The gateway under test: $NEXUS_GATEWAY_BIN, else the release build of this repository."""
    path = Path(os.environ.get("NEXUS_GATEWAY_BIN", ROOT / "target/release/nexus-gateway"))
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `cargo build --release` first")
    return path


def configuration(text: str) -> Path:
    """A gateway's configuration file with this text."""
    file = scratch_folder("config") / "gateway.yaml"
    file.write_text(text)
    return file


class Gateway:
    """`nexus-gateway run` with the given flags. Ports and state folder are its own unless said otherwise."""

    def __init__(
        self,
        clusters: Sequence[str] = (),
        config: Path | None = None,
        state: Path | None = None,
        listen: str = "127.0.0.1:0",
    ) -> None:
        """`listen`: empty where the configuration says it."""
        self.state = state or scratch_folder("state")
        self.command = [str(binary()), "run", "--admin", "127.0.0.1:0", "--state", str(self.state)]
        if listen:
            self.command += ["--listen", listen]
        for url in clusters:
            self.command += ["--cluster", url]
        self._logs: list[Path] = []
        self._config = self._with_logs(config) if planted.watching else config
        if self._config:
            self.command += ["--config", str(self._config)]
        self.address = self.admin = ""
        self._child: Child | None = None

    def _with_logs(self, config: Path | None) -> Path:
        """A folder with this file, whatever becomes of it, and one that has all logs written."""
        folder, logs = scratch_folder("config"), scratch_folder("logs")
        self._logs = [logs / "access.log", logs / "audit.log"]
        access, audit = self._logs
        (folder / "log.yaml").write_text(f"log: {{ level: debug, access_log: {access}, audit_log: {audit} }}\n")
        if config:
            (folder / config.name).symlink_to(config)
        return folder

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self, ready: bool = True) -> Gateway:
        """Starts it and learns the bound addresses from its log; waits for readiness unless told not to."""
        self._child = Child("gateway", self.command, env={"RUST_BACKTRACE": "1", "NO_COLOR": "1"})

        def addresses() -> dict[str, str] | None:
            found = dict(_ADDRESS.findall(_COLOUR.sub("", self.output())))
            return found if len(found) == 2 else None

        bound = self._child.ready(addresses)
        self.address, self.admin = bound["data"], bound["admin"]
        if ready:
            self._child.ready(lambda: True if self.ready() else None)
        return self

    def ready(self) -> bool:
        answer = probe(f"http://{self.admin}/readyz")
        return answer is not None and answer.status == 200

    def get(self, path: str) -> Answer:
        """A page of the admin port."""
        return send("GET", f"http://{self.admin}{path}")

    def post(self, path: str) -> Answer:
        """An order to the admin port."""
        return send("POST", f"http://{self.admin}{path}", b"", {"Nexus-Gateway-Admin": "test"})

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics").body.decode())

    def target_url(self, endpoint: str) -> str:
        """What an External endpoint of a caller's cluster names as its target."""
        return f"{self.url}/nexus/endpoints/{endpoint}/services"

    def output(self) -> str:
        return self._child.output() if self._child else ""

    def audit_log(self) -> str:
        """What it has written of who was let do what."""
        return self._logs[1].read_text()

    def log(self) -> str:
        return self._child.tail(60) if self._child else "(not started)"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def running(self) -> bool:
        return self._child is not None and self._child.running()

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        assert self._child is not None
        self._child.signal(signal.SIGTERM)

    def wait(self) -> int:
        assert self._child is not None
        status = self._child.wait()
        self._look()
        return status

    def kill(self) -> None:
        """SIGKILL: it gets no chance to finish anything. It can be started again."""
        assert self._child is not None
        self._child.signal(signal.SIGKILL)
        self._child.wait()
        self._look()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self._child is None:
            return 0
        if planted.watching and self.running():
            self._look_at_pages()
        status = self._child.stop()
        self._look()
        return status

    # --- the look for planted secrets ---

    def _look_at_pages(self) -> None:
        for page in _PAGES:
            if answer := probe(f"http://{self.admin}{page}"):
                planted.look(f"{page} of {self.command}", f"{answer.headers} {answer.body.decode(errors='replace')}")
        if not self._config:
            return
        defined = probe(f"http://{self.admin}/endpoints")
        names = [entry["name"] for entry in defined.json()["endpoints"]] if defined and defined.status == 200 else []
        for asked in (["check"], *(["resolve", name] for name in names[:1])):
            command = [str(binary()), *asked, "--config", str(self._config)]
            said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            planted.look(str(command), said.stdout + said.stderr)

    def _look(self) -> None:
        """At all logs, once it has ended."""
        if planted.watching:
            planted.look(f"the log of {self.command}", self.output())
            for log in self._logs:
                if log.exists():
                    planted.look(f"the {log.stem} log of {self.command}", log.read_text(errors="replace"))
