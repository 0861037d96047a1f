"""A real PostgreSQL for tests: Debian's, in its own folder, on a free port, stopped at will."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

BIN = Path("/usr/lib/postgresql/15/bin")
START_S = 30.0


def missing() -> str:
    """Why there is no PostgreSQL; "" where there is."""
    if not (BIN / "initdb").exists():
        return f"{BIN}/initdb is missing"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "runuser is missing, and PostgreSQL does not run as root"
    return ""


def _free_port() -> int:
    """A port nobody listens on, below those that clients are given: those get taken meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class PostgresServer:
    """One server process. Port and data stay the same over `stop` and `start`."""

    def __init__(self) -> None:
        # Not below pytest's own folder: each run of pytest by root shuts that to other users again.
        self._folder = Path(tempfile.mkdtemp(prefix="vitalstream-postgres-"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["runuser", "-u", "postgres", "--"]
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "-D", str(self._folder), "-A", "trust", "-U", "postgres", "--no-sync")
        self.port = _free_port()

    def url(self, name: str) -> str:
        """URL of a database, as a person would write it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def create(self, name: str) -> str:
        """Make an empty database; returns its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)
        return self.url(name)

    def start(self) -> None:
        """Start; returns when it answers."""
        options = (
            f"-h 127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off -c shared_buffers=32MB"
        )
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder), "-w", "-l", log, "-o", options, "start")
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("PostgreSQL did not start")

    def stop(self) -> None:
        """Stop at once, as a crash would; nothing where it does not run."""
        self._run("pg_ctl", "-D", str(self._folder), "-m", "immediate", "stop", check=False)

    def remove(self) -> None:
        """Stop and delete the folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *args: str, check: bool = True) -> None:
        with tempfile.TemporaryFile() as said:  # a pipe would stay open as long as the server runs
            done = subprocess.run(
                [*self._as, str(BIN / program), *args],
                cwd="/",
                stdout=said,
                stderr=said,
                check=False,
            )
            if check and done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program}: {said.read().decode(errors='replace')[-500:]}")
