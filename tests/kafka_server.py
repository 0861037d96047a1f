"""A real Apache Kafka for tests: one KRaft node on free loopback ports, to be killed and started at
will.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

HOME = Path(__file__).parents[1] / "deploy" / "kafka"
START_S = 60.0


def resolve() -> str:
    """Fetch Kafka's jars where they are missing; the reason why there is no Kafka, "" where there
    is.
    """
    if shutil.which("java") is None:
        return "java is missing"
    if (HOME / "target" / ".resolved").exists():
        return ""
    if shutil.which("mvn") is None:
        return "mvn is missing, and the jars of Kafka were not fetched"
    goal = ["dependency:copy-dependencies", "-DoutputDirectory=target/dependency"]
    done = subprocess.run(["mvn", "-q", "-B", *goal], cwd=HOME, capture_output=True, text=True)
    if done.returncode:
        return f"mvn failed: {(done.stdout + done.stderr)[-300:]}"
    (HOME / "target" / ".resolved").touch()
    return ""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class KafkaServer:
    """One Kafka process. Ports and data outlive `restart`, and `kill` with `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._controller_port = free_ports(2)
        self.servers = f"127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers with metadata."""
        assert self._process is None, "already started"
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(HOME / "start.sh"), str(self.port), str(self.folder)],
                stdout=log,
                stderr=log,
                env=os.environ | {"CONTROLLER_PORT": str(self._controller_port)},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start: {self.log()[-2_000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop in good order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop without warning (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in good order and start again."""
        self.stop()
        self.start()

    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "kafka.log").read_text(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.2):
                pass
        except OSError:
            return False
        client = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})
        try:
            return bool(client.list_topics(timeout=5).brokers)
        except KafkaException:
            return False
