"""`vitalstream run`: the whole product in one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from streaming.codec import encode
from streaming.messages import VITALS, Observation
from streaming.producer import Producer

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60


def environment(**more: str) -> Mapping[str, str]:
    """Nothing of the person's who runs the tests."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VITALSTREAM_")}
    return clean | {"OMP_NUM_THREADS": "1"} | more


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the product; its log goes to a file."""
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", "run", "--data-dir", str(folder), *options],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`run --no-simulator`: `.url`, `.kafka`, `.client`, `.port`."""
    folder = tmp_path_factory.mktemp("run")
    process = start(folder, "--no-simulator", "--port", "0")
    try:
        assert process.stdout is not None
        ready, kafka = process.stdout.readline(), process.stdout.readline()
        assert ready.startswith("ready http://127.0.0.1:"), (folder / "log").read_text()
        assert kafka.startswith("kafka 127.0.0.1:")
        url, _, token = ready.split()[1].partition("/#token=")
        header = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=header, timeout=10) as client:
            yield SimpleNamespace(
                url=url, kafka=kafka.split()[1], client=client, port=int(url.rpartition(":")[2])
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()


async def publish(servers: str, *observations: Observation) -> None:
    """Publish as a monitor does."""
    async with Producer(servers) as producer:
        for each in observations:
            await (await producer.send(VITALS, each.bed_id.encode(), encode(each)))


def shown(client: httpx.Client, bed: str, ts_ms: int) -> Any:
    """The bed, once its prediction is of this time."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        answer = client.get(f"/v1/beds/{bed}")
        if answer.status_code == 200:
            found = answer.json()
            if found["prediction"] and found["prediction"]["ts_ms"] >= ts_ms:
                return found
        time.sleep(0.05)
    raise AssertionError(f"no prediction of {bed} at {ts_ms}")


async def test_what_a_client_publishes_is_read_over_rest(product: Any) -> None:
    """To the printed broker, with the printed token; what arrives now is live."""
    now_ms = time.time_ns() // 1_000_000
    values = {"hr": 88.0, "spo2": 96.0, "map": 74.0, "resp": 19.0}
    await publish(product.kafka, Observation("Z-1", now_ms, values))
    bed = shown(product.client, "Z-1", now_ms)

    assert not bed["stale"]
    assert 0 <= bed["age_ms"] < 30_000
    assert {name: each["v"] for name, each in bed["prediction"]["inputs"].items()} == values


async def test_a_replay_of_the_past_is_stale_however_fresh_it_arrives(product: Any) -> None:
    """All caught up, and yet nothing of it is of now."""
    old_ms = time.time_ns() // 1_000_000 - 3_600_000
    past = [Observation("Z-2", old_ms + k * 60_000, {"hr": 80.0 + k}) for k in range(5)]
    await publish(product.kafka, *past)
    bed = shown(product.client, "Z-2", past[-1].ts_ms)

    assert bed["stale"]
    assert 3_300_000 < bed["age_ms"] < 3_600_000


def test_the_page_and_every_part_answer(product: Any) -> None:
    """Ready means ready, also without one simulated bed."""
    ready = product.client.get("/health/ready")

    assert ready.status_code == 200, ready.text
    assert all(part["ok"] for part in ready.json()["parts"].values())
    assert httpx.get(f"{product.url}/v1/beds").status_code == 401


def test_a_second_start_on_the_same_port_is_one_line(product: Any, tmp_path: Path) -> None:
    """And exit code 2; the first goes on."""
    second = start(tmp_path, "--port", str(product.port))

    assert second.wait(PATIENCE_S) == 2
    assert second.communicate()[0] == ""
    last = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert last == f"vitalstream: port: {product.port} is not allowed: Address already in use"
    assert product.client.get("/health/live").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_what_others_can_reach_needs_a_token(host: str, tmp_path: Path) -> None:
    """The random token would be printed for one person only."""
    process = start(tmp_path, "--host", host, "--port", "0")

    assert process.wait(PATIENCE_S) == 2
    assert "token: nothing is not allowed" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("said", ["embedded broker", "api listens"])
def test_a_start_that_is_stopped_ends_well(said: str, tmp_path: Path) -> None:
    """Whatever is being loaded meanwhile."""
    process = start(tmp_path, "--port", "0", "--beds", "2")
    log = tmp_path / "log"
    end_s = time.monotonic() + PATIENCE_S
    while said not in log.read_text():
        assert time.monotonic() < end_s and process.poll() is None, log.read_text()
        time.sleep(0.02)
    asked_s = time.monotonic()
    process.send_signal(signal.SIGTERM)

    assert process.wait(15) == 0, log.read_text()
    assert time.monotonic() - asked_s < 10
    assert process.communicate()[0] == ""
