"""From a recorded stay to a clinician's answer, every role a process of its own, on real services.

Replay → Apache Kafka → two workers → predictions → ward → PostgreSQL, read at two APIs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-this-test-only"
PATIENCE_S = 90


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Roles:
    """Processes of the product that end with the test."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; its output goes to a file of its name."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", *arguments],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running.append((name, process))
        return process

    def logs(self) -> str:
        """The last lines of every process."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-3000:]}"
            for path in sorted(self._folder.glob("*.log"))
        )

    def wait(self, what: str, true: Callable[[], Any]) -> Any:
        """Ask until the answer is true; with every process's log where it never is."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                if answer := true():
                    return answer
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{what} did not come true\n{self.logs()}")

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit codes."""
        for _, process in self._running:
            process.send_signal(signal.SIGTERM)
        codes = {}
        for name, process in self._running:
            try:
                codes[name] = process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self._running.clear()
        return codes


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL; skips where there is none, fails there in CI."""
    server_module = _module(ROOT / "tests" / "app" / "postgres_server.py")
    if reason := server_module.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    server = server_module.PostgresServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def roles(stream: Any, postgres: Any, tmp_path: Path) -> Iterator[Roles]:
    """A way to start roles that share one Kafka and one database."""
    url = postgres.create(f"live_{stream.group.replace('-', '_')}")
    started = Roles(
        tmp_path,
        {
            "VITALSTREAM_KAFKA": stream.servers,
            "VITALSTREAM_DATABASE": url,
            "VITALSTREAM_TOKEN": TOKEN,
            "VITALSTREAM_GROUP": stream.group,
            "OMP_NUM_THREADS": "1",
        },
    )
    try:
        yield started
    finally:
        started.stop()


def _port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_recorded_stays_are_predicted_and_read_at_two_apis(roles: Roles, tmp_path: Path) -> None:
    """Every replayed stay has a prediction at its last hour, with its scores, inputs and history,
    at both APIs.
    """
    writer = _module(ROOT / "tests" / "support" / "recorded_sets.py")
    archive = writer.physionet2012(tmp_path / "set", stays=8)
    assert roles.start("migrate", "migrate").wait(60) == 0, roles.logs()
    for number in (1, 2):
        roles.start(f"worker{number}", "worker")
    roles.start("ward", "ward")
    ports = [_port(), _port()]
    for port in ports:
        roles.start(f"api{port}", "api", "--port", str(port))
    header = {"Authorization": f"Bearer {TOKEN}"}
    apis = [httpx.Client(base_url=f"http://127.0.0.1:{p}", headers=header) for p in ports]
    for api in apis:
        roles.wait("the api is live", lambda a=api: a.get("/health/live").status_code == 200)

    replay = roles.start("replay", "replay", "physionet2012", str(archive), "--speed", "max")
    assert replay.wait(PATIENCE_S) == 0, roles.logs()

    def predicted(api: httpx.Client) -> Any:
        beds = api.get("/v1/beds").json()["beds"]
        return beds if len(beds) == 8 and all(bed["prediction"] for bed in beds) else None

    wards = [roles.wait("every stay is predicted", lambda a=api: predicted(a)) for api in apis]

    def settled(api: httpx.Client) -> Any:
        got = {b["bed_id"]: b["prediction"] for b in api.get("/v1/beds").json()["beds"]}
        return got if len({json.dumps(p, sort_keys=True) for p in got.values()}) == 8 else None

    roles.wait("both apis say the same", lambda: settled(apis[0]) == settled(apis[1]))
    assert {bed["bed_id"] for bed in wards[0]} == {bed["bed_id"] for bed in wards[1]}
    bed = apis[0].get("/v1/beds").json()["beds"][0]
    prediction = bed["prediction"]
    assert set(prediction["risks"]) == {"sepsis", "mortality", "hypotension", "hypoxaemia"}
    assert sum(prediction["experts"].values()) == pytest.approx(1, abs=1e-4)
    assert set(prediction["scores"]) == {"news2", "qsofa", "mews", "sirs", "shock_index"}
    assert prediction["inputs"]["hr"]["age_ms"] >= 0
    path = f"/v1/beds/{bed['bed_id']}"
    roles.wait(
        "the history holds the stay",
        lambda: apis[1].get(f"{path}/predictions", params={"limit": 10}).json()["predictions"],
    )
    trends = roles.wait(
        "the trends hold the stay",
        lambda: (
            apis[1]
            .get(f"{path}/trends", params={"signals": "hr", "step_s": 3600})
            .json()["signals"]["hr"]
        ),
    )
    assert all(low <= mean <= high for _, mean, low, high in trends)
    for api in apis:
        assert api.get("/v1/beds", headers={"Authorization": "Bearer wrong"}).status_code == 401
        api.close()
    codes = roles.stop()
    assert {name: code for name, code in codes.items() if name not in ("migrate", "replay")} == {
        "worker1": 0, "worker2": 0, "ward": 0, **{f"api{port}": 0 for port in ports}
    }, roles.logs()  # fmt: skip
