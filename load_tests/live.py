"""Real services and the product's roles as processes, for measurements that need all of them."""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "load-test-token"
_TICKS_S = os.sysconf("SC_CLK_TCK")


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


kafka_server = _module(ROOT / "tests" / "kafka_server.py")
postgres_server = _module(ROOT / "tests" / "app" / "postgres_server.py")


def machine() -> dict[str, str]:
    """What the figures were measured on: commit, cores, processor."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"commit": commit, "cores": str(os.cpu_count()), "processor": model}


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


class Product:
    """A real Kafka, a database and the roles, each a process; all end with the context.

    Args:
        database: `sqlite` or `postgresql`.
        environment: Settings of all roles besides the broker, the database and the token.
    """

    def __init__(self, database: str = "sqlite", environment: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vitalstream-load-")
        self.folder = Path(self._folder.name)
        self._kind = database
        self._postgres: Any = None
        self.kafka = kafka_server.KafkaServer(self.folder / "kafka")
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        self.port = kafka_server.free_ports(1)[0]
        self._extra = environment or {}
        self._environment: dict[str, str] = {}

    def __enter__(self) -> Product:
        if reason := kafka_server.resolve():
            raise SystemExit(f"no Kafka: {reason}")
        (self.folder / "kafka").mkdir()
        self.kafka.start()
        if self._kind == "postgresql":
            self._postgres = postgres_server.PostgresServer()
            self._postgres.start()
            url = self._postgres.create("load")
        else:
            url = f"sqlite:///{self.folder / 'vitalstream.db'}"
        self._environment = {
            **os.environ,
            "VITALSTREAM_KAFKA": self.kafka.servers,
            "VITALSTREAM_DATABASE": url,
            "VITALSTREAM_TOKEN": TOKEN,
            **self._extra,
        }
        for command in ("topics", "migrate"):
            if self.start(command, command).wait(120):
                raise SystemExit(f"{command} failed: {self.log(command)}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.roles.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.roles.values():
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._postgres is not None:
            self._postgres.stop()
        self.kafka.stop()
        self._folder.cleanup()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of the product; its output goes to a file of its name."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", *arguments],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.roles[name] = process
        return process

    def log(self, name: str) -> str:
        """The last lines of a process."""
        return (self.folder / f"{name}.log").read_text()[-2_000:]

    def get(self, path: str) -> bytes:
        """Read a route of the API."""
        request = Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def until(self, what: str, path: str, patience_s: float = 90) -> None:
        """Wait until a route of the API answers 200."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            try:
                self.get(path)
                return
            except OSError:
                time.sleep(0.2)
        logs = "\n".join(f"--- {name}\n{self.log(name)}" for name in self.roles)
        raise SystemExit(f"{what} did not come true\n{logs}")

    def cpu(self) -> dict[str, float]:
        """CPU seconds of every process that runs, the broker included."""
        found = {n: cpu_s(p.pid) for n, p in self.roles.items() if p.poll() is None}
        return {**found, "kafka": cpu_s(self.kafka.pid)}
