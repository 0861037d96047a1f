"""The command line, as a person meets it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `vitalstream`; the environment is this test's own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VITALSTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *options],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("options", "environment", "says"),
    [
        (["worker", "--kafka", "nohost"], {}, "kafka: 'nohost' is not allowed: HOST:PORT"),
        (["worker"], {}, "kafka: nothing is not allowed"),
        (["run", "--port", "99999"], {}, "port: '99999' is not allowed"),
        (["run"], {"VITALSTREAM_BEDS": "many"}, "beds: 'many' is not allowed"),
        (["run", "--host", "0.0.0.0", "--port", "0"], {}, "token: nothing is not allowed"),
        (["run", "--devices", "tpu"], {}, "devices: 'tpu' is not allowed: cpu, cuda"),
        (["run", "--data-dir", "/proc/none"], {}, "data_dir: '/proc/none' is not allowed"),
        (["run", "--config", "/none.toml"], {}, "config: '/none.toml' is not allowed"),
        (["run", "--no-such"], {}, "No such option"),
        (["train"], {}, "data: nothing is not allowed: the folder"),
        (["evaluate", "--data", "/none"], {}, "data: '/none' is not allowed: the folder"),
        (["train", "--data", ".", "--epochs", "0"], {}, "epochs: '0' is not allowed: a whole"),
        (["train", "--data", ".", "--sets", "x"], {}, "data: .: set 'x' is not one of physionet"),
        (["train", "--data", ".", "--ranks", "3"], {}, "data: .: set physionet2019: no folder"),
        (["train", "--data", ".", "--devices", "cuda:7"], {}, "devices: 'cuda:7' is not allowed:"),
        (
            ["train", "--data", ".", "--spread-experts", "--devices", "cuda"],
            {},
            "devices: 'cuda' is not allowed: experts spread on cpu",
        ),
        (["train", "--data", ".", "--spread-experts", "--ranks", "1"], {}, "ranks: '1' is not all"),
        (["train", "--data", ".", "--spread-experts", "--sets", "x"], {}, "data: .: set 'x' is"),
        (["evaluate", "--data", ".", "--limit", "1.5"], {}, "limit: '1.5' is not allowed: a whole"),
        (["evaluate", "--data", ".", "--model", "LICENSE"], {}, "model: LICENSE: "),
        (["nonsense"], {}, "No such command"),
        (["run", "--host", "none.invalid", "--token", "12345678"], {}, "host: 'none.invalid' is"),
        (["run", "--model", "/none"], {}, "model: '/none' is not allowed: no such file"),
        (["worker", "--kafka", "h:1", "--model", "/none"], {}, "model: '/none' is not allowed"),
        (["api", "--kafka", "h:1", "--model", "/none"], {}, "model: '/none' is not allowed"),
        (["replay", "x", "--kafka", "h:1"], {}, "dataset: unknown set 'x', expected one of phys"),
    ],
)
def test_a_bad_setting_ends_with_two_and_one_line(
    options: list[str], environment: dict[str, str], says: str
) -> None:
    """It names the setting, the value and what is allowed."""
    done = call(*options, **environment)

    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"vitalstream: {says}")
    assert done.stdout == ""


def test_secrets_are_never_shown() -> None:
    """Neither the token nor the database's password."""
    done = call("api", "--kafka", "h:1", VITALSTREAM_TOKEN="geheim sein")
    other = call("migrate", "--database", "mysql://u:geheim@h/x")

    assert done.returncode == other.returncode == 2
    assert "geheim" not in done.stderr + other.stderr


def test_a_port_in_use_is_one_line() -> None:
    """The commonest mistake of all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = call("run", "--port", port, "--data-dir", "/tmp/vitalstream-test-cli")

    assert done.returncode == 2
    assert done.stderr == f"vitalstream: port: {port} is not allowed: Address already in use\n"


def test_a_device_that_is_not_there_is_a_bad_setting() -> None:
    """Told with what there is instead, once the model is to be loaded."""
    done = call("worker", "--kafka", "127.0.0.1:1", "--devices", "cuda:99")

    assert done.returncode == 2
    assert "vitalstream: devices: 'cuda:99' is not allowed: this machine has" in done.stderr


def test_an_absent_broker_is_one_line() -> None:
    """Exit code 1: the setting is allowed, the broker is away."""
    done = call("topics", "--kafka", "127.0.0.1:1")

    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("vitalstream: kafka: no broker answers")


def test_every_command_explains_its_options() -> None:
    """Help texts load nothing heavy and name every command."""
    text = call("--help").stdout
    for command in ("run", "worker", "ward", "api", "simulate", "replay", "train", "evaluate"):
        assert command in text
    heavy = "('torch', 'fastapi', 'aiokafka', 'pydantic', 'structlog')"
    probe = f"import sys, app.cli; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_run_says_ready_once_and_ends_well(first: signal.Signals, tmp_path: Path) -> None:
    """One `ready` line, one `kafka` line, and 0 after a signal, also when it comes twice."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VITALSTREAM_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "app.cli", "run", "--port", "0", "--beds", "2"),
            *("--history-h", "0", "--data-dir", str(tmp_path)),
        ],
        cwd=ROOT,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(first)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=15)
    finally:
        process.kill()

    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert lines[0].startswith("ready http://127.0.0.1:") and "/#token=" in lines[0]
    assert lines[1].startswith("kafka 127.0.0.1:")
    assert rest == ""
    assert lines[0].partition("token=")[2].strip() not in (tmp_path / "log").read_text()
