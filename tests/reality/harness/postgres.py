"""A real PostgreSQL from Debian on a free loopback port, which a test can stop, kill and start again."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .processes import Child, free_port, scratch_folder

USER = "postgres"
"""Who the server runs as where we are root, which it refuses to be; and the name of the database's owner."""


def folder_of_commands() -> Path:
    """Where initdb and postgres are: Debian keeps them out of the PATH, a folder for each major version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).parent
    raise FileNotFoundError("PostgreSQL is missing. On Debian and Ubuntu: apt-get install postgresql")


class Postgres:
    """One server with an empty database, which is kept when it is started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self._commands = folder_of_commands()
        self._folder = scratch_folder("postgres")
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"postgres://{USER}@127.0.0.1:{self.port}/{USER}"

    def start(self) -> Postgres:
        data = self._folder / "data"
        if not data.exists():
            self._create(data)
        flags = ["-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder)]
        self._child = Child("postgres", self._as_user([str(self._commands / "postgres"), *flags]))
        self._child.ready(self._answers)
        return self

    def _create(self, data: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._folder, USER)
        command = [str(self._commands / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8"]
        made = subprocess.run(
            self._as_user([*command, "--locale", "C", "--no-sync"]), capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stdout}{made.stderr}")

    def _as_user(self, command: Sequence[str]) -> list[str]:
        """Root becomes another user. The change of user would undo what ends the server with us, so that is asked for
        once more."""
        if os.geteuid() != 0:
            return list(command)
        group = str(pwd.getpwnam(USER).pw_gid)
        become = ["setpriv", "--reuid", USER, "--regid", group, "--clear-groups", "--pdeathsig", "KILL"]
        return [*become, *command]

    def _answers(self) -> bool | None:
        command = [str(self._commands / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return True if subprocess.run(command, check=False).returncode == 0 else None

    def query(self, text: str) -> str:
        """What a statement prints, without decoration."""
        command = [str(self._commands / "psql"), self.url, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            raise RuntimeError(f"psql: {told.stderr}")
        return told.stdout.strip()

    def version(self) -> str:
        found = re.match(r"\S+ \S+", self.query("select version()"))
        return found.group() if found else "PostgreSQL"

    def restart(self, crash: bool = False) -> None:
        """Ends every connection and comes back; after a crash it recovers from its log first."""
        self._end(signal.SIGKILL if crash else signal.SIGINT)
        self.start()

    def suspend(self) -> None:
        """Stops the processes, not the server: connections stay, and nothing answers."""
        assert self._child is not None
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGCONT)
            self._end(signal.SIGINT)

    def _end(self, number: int) -> None:
        """SIGINT does not wait for clients, as SIGTERM would."""
        assert self._child is not None
        self._child.signal(number)
        self._child.wait()
        self._child = None
