"""Hospitals as processes over mutual TLS: they learn, survive kills, and strangers stay out."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.federated import certificates

TOY = Path(__file__).with_name("toy.py")
ROOT = Path(__file__).parents[3]
NAMES = [f"site-{i}" for i in range(4)]


class Federation:
    """Processes on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        certificates.make(folder / "certificates", NAMES)

    def start(self, command: str, what: str) -> subprocess.Popen[str]:
        """Start a process; the server has said its port when this returns."""
        found = subprocess.Popen(
            [sys.executable, str(TOY), command, str(self.folder), what, str(self.port)],
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{command}-{len(self.started)}.log").open("w"),
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        self.started.append(found)
        if command == "serve":
            assert found.stdout is not None
            assert found.stdout.readline().startswith("port")
        return found

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Ask the server until its status is so."""
        while not holds(self.status(NAMES[0])):
            time.sleep(0.02)

    def status(self, name: str) -> dict[str, Any]:
        """What the server says to a hospital."""
        context = ssl.create_default_context(cafile=str(self.folder / "certificates" / "ca.pem"))
        at = self.folder / "certificates"
        context.load_cert_chain(at / f"{name}.pem", at / f"{name}.key")
        asked = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        asked.request("GET", "/v1/status")
        answer = asked.getresponse()
        said: dict[str, Any] = json.loads(answer.read())
        asked.close()
        return {**said, "status": answer.status}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """A federation whose processes end with the test."""
    found = Federation(tmp_path)
    yield found
    for process in found.started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _expected(rounds: int) -> float:
    """The weighted mean of the goals, approached by half a round."""
    goals = np.arange(1, 5)
    return float((goals * goals).sum() / goals.sum() * (1 - 0.5**rounds))


def _model(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(process.stdout.readline().split()[1])


def test_hospitals_reach_the_weighted_mean(federation: Federation) -> None:
    """Four processes, five rounds: the model is what plain FedAvg over all rows gives."""
    server = federation.start("serve", "5:30")
    sites = [federation.start("join", name) for name in NAMES]
    assert _model(server) == pytest.approx(_expected(5), abs=1e-5)
    for site in sites:
        assert site.stdout is not None
        assert site.stdout.readline().split() == ["rounds", "5"]
        assert site.wait(10) == 0


def test_a_killed_server_goes_on_with_the_same_model(federation: Federation) -> None:
    """Killed twice in the midst of rounds, it ends where it would have ended."""
    server = federation.start("serve", "8:30")
    for name in NAMES:
        federation.start("join", name)
    for number in (3, 5):
        federation.until(lambda said, number=number: said["number"] >= number)
        server.send_signal(signal.SIGKILL)
        server.wait()
        server = federation.start("serve", "8:30")
    assert _model(server) == pytest.approx(_expected(8), abs=1e-4)
    kept = federation.status(NAMES[0])
    assert kept["succeeded"] == 8


def test_a_killed_hospital_is_a_dropout_and_comes_back(federation: Federation) -> None:
    """The others go on without it; restarted, it takes part again."""
    server = federation.start("serve", "1000:0.5")
    sites = [federation.start("join", name) for name in NAMES]

    def wait_for(clients: list[str]) -> None:
        federation.until(lambda said: said["past"] and said["past"][-1]["clients"] == clients)

    wait_for(NAMES)
    sites[3].send_signal(signal.SIGKILL)
    sites[3].wait()
    wait_for(NAMES[:3])
    federation.start("join", NAMES[3])
    wait_for(NAMES)
    assert server.poll() is None


def test_without_a_certificate_nobody_gets_in(federation: Federation) -> None:
    """No certificate: no TLS. One that the roster does not name: a clear refusal."""
    federation.start("serve", "1:30")
    at = federation.folder / "certificates"
    context = ssl.create_default_context(cafile=str(at / "ca.pem"))
    asked = http.client.HTTPSConnection("127.0.0.1", federation.port, timeout=10, context=context)
    with pytest.raises((ssl.SSLError, OSError)):
        asked.request("GET", "/v1/status")
        asked.getresponse()
    context.load_cert_chain(at / "server.pem", at / "server.key")
    asked = http.client.HTTPSConnection("127.0.0.1", federation.port, timeout=10, context=context)
    with pytest.raises((ssl.SSLError, OSError)):
        asked.request("GET", "/v1/status")
        asked.getresponse()
    asked.close()
    assert federation.status(NAMES[0])["status"] == 200
