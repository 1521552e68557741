"""Child processes that cannot outlive us: each in its own process group, with a log, ended by that group."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[3]
"""The root of the repository."""

GUARD = 60.0
"""Seconds after which a wait is taken for a hang. No test asserts a time; this only ends a stuck one."""

_alive: set[Child] = set()
_folders: set[Path] = set()
_given: set[int] = set()


def alive() -> list[Child]:
    """The children that have been started and not yet ended, in no particular order."""
    return list(_alive)


class StartError(Exception):
    """A process ended, or said nothing useful, before it was ready. Carries the end of its log."""


def free_port() -> int:
    """A loopback port that nobody listens on now, and that no earlier call has returned."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return int(port)


def scratch_folder(name: str) -> Path:
    """A temporary folder that is removed when we exit."""
    folder = Path(tempfile.mkdtemp(prefix=f"nexus-gateway-{name}-"))
    _folders.add(folder)
    return folder


def stand_aside() -> None:
    """From now on everything else on the machine goes before this process, and before all of its session."""
    os.nice(19)
    # Where Linux shares the CPU out between sessions first, a process's own niceness counts only within its session.
    # Without privileges one process of the machine may say so in a tenth of a second.
    group = Path("/proc/self/autogroup")
    while group.exists():
        with contextlib.suppress(BlockingIOError):
            group.write_text("19")
            return
        time.sleep(0.1)


class Child:
    """One process of ours with its output in a log file."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = scratch_folder(name) / "log"
        command = list(command)
        # Should we be killed outright, the kernel ends the child for us.
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, not the child's
            )
        self.pid = self._process.pid
        _alive.add(self)

    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """Sends a signal to this process's own group, if it still runs."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, timeout: float = GUARD) -> int:
        """The exit status, once the process has ended by itself."""
        status = self._process.wait(timeout)
        _alive.discard(self)
        return status

    def stop(self) -> int:
        """Asks the process to end, insists after a while, and returns its exit status."""
        self.signal(signal.SIGTERM)
        try:
            status = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            status = self._process.wait()
        _alive.discard(self)
        return status

    def ready(self, check: Callable[[], T | None], timeout: float = GUARD) -> T:
        """Polls `check` until it returns something; fails at once when the process ends before that."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = check()
            if found is not None:
                return found
            if not self.running():
                raise StartError(f"{self.name} ended with status {self._process.returncode}:\n{self.tail()}")
            time.sleep(0.05)
        raise StartError(f"{self.name} was not ready after {timeout:.0f} s:\n{self.tail()}")


@atexit.register
def stop_everything() -> None:
    """Ends every child that is still alive and removes every temporary folder."""
    for child in alive():
        child.signal(signal.SIGTERM)
    for child in alive():
        child.stop()
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)
        _folders.discard(folder)


def end_on_signals() -> None:
    """Lets SIGTERM and SIGHUP unwind the program like Ctrl-C does, so that nothing is left running."""

    def leave(_number: int, _frame: object) -> None:
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
