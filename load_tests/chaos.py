"""Kill, stop and rebalance workers on a real Kafka, then prove that nothing was lost.

    python load_tests/chaos.py --kafka 127.0.0.1:9092 --scenario kill,freeze --seconds 20

Observations are known values by bed and sequence number; `verdict.py` proves by the topics what
became of them, `books.py` by the database what a ward wrote. A database that is away for 30 s:

    python load_tests/chaos.py --kafka 127.0.0.1:9092 --scenario database_away --beds 100 \\
        --rate 100 --seconds 50 --away 30 --database postgresql://… \\
        --stop-database 'pg_ctl … stop' --start-database 'pg_ctl … start'
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "load_tests"))  # also where this module is loaded by its path

from books import judge  # noqa: E402
from verdict import START_MS, Verdict, observation, verify  # noqa: E402

STALE_MS = 8_000
"""Silence after which the ward of a run opens an alert."""


def create_topics(servers: str, partitions: int) -> None:
    """The topics of the product, where they are not there."""
    admin = AdminClient({"bootstrap.servers": servers})
    compact = {"cleanup.policy": "compact"}
    there = admin.list_topics(timeout=10).topics
    wanted = {
        "icu.vitals": {},
        "icu.cases": compact,
        "icu.predictions": {},
        "icu.windows": compact,
        "icu.alerts": compact,
        "icu.vitals.dlq": {},
    }
    new = [
        NewTopic(t, partitions, replication_factor=1, config=c)
        for t, c in wanted.items()
        if t not in there
    ]
    for future in admin.create_topics(new).values() if new else ():
        future.result(15)


class Publisher:
    """Sends the known observations at a steady rate; `live`: their event times begin now."""

    def __init__(self, servers: str, beds: int, run: str = "", live: bool = False) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.timeout.ms": 120_000,
            }
        )
        self._beds = beds
        self._run = run
        self._start_ms = None if live else START_MS
        self.sent = 0

    def publish(self, count: int, rate: float, meanwhile: Callable[[float], None]) -> None:
        """Send `count` observations, round robin; `meanwhile` is called with the share sent."""
        started = time.monotonic()
        if self._start_ms is None:
            self._start_ms = time.time_ns() // 1_000_000
        for i in range(count):
            message = observation(
                self.sent % self._beds, self.sent // self._beds, self._start_ms, self._run
            )
            while True:
                try:
                    self._producer.produce(
                        "icu.vitals", json.dumps(message).encode(), message["bed_id"].encode()
                    )
                    break
                except BufferError:
                    self._producer.poll(0.05)
            self.sent += 1
            if i % 50 == 0:
                self._producer.poll(0)
                meanwhile(i / count)
                ahead = i / rate - (time.monotonic() - started)
                if ahead > 0:
                    time.sleep(ahead)

    def flush(self) -> None:
        """Until all is acknowledged."""
        left = self._producer.flush(120)
        if left:
            raise RuntimeError(f"{left} observations were not acknowledged")


class Worker:
    """A worker's process, or a ward's."""

    def __init__(self, servers: str, log: Path, command: Sequence[str], **settings: object) -> None:
        self._log = log.open("ab")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("VITALSTREAM_")
        }
        environment |= {f"VITALSTREAM_{k.upper()}": str(v) for k, v in settings.items()}
        environment |= {
            "VITALSTREAM_KAFKA": servers,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def ready(self, timeout_s: float = 90) -> None:
        """Wait until it says that it is ready. Raises TimeoutError, RuntimeError where it ended."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"worker ended: {self.process.returncode}")
            found = re.search(r"http://[0-9.]+:[0-9]+", Path(self._log.name).read_text())
            if found:
                try:
                    with urllib.request.urlopen(f"{found[0]}/health/ready", timeout=2):
                        return
                except OSError:
                    pass  # Not yet: restoring, or the server is not up.
            time.sleep(0.05)
        raise TimeoutError("worker is not ready")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(10)
        self._log.close()

    def stop(self, within_s: float = 15) -> int:
        """SIGTERM; its exit code. Killed where it does not end in time."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()
        return self.process.returncode


def settle(servers: str, timeout_s: float, emit: str = "each") -> Verdict:
    """Wait until nothing is missing, or the time is over; the verdict then."""
    end = time.monotonic() + timeout_s
    while True:
        verdict = verify(servers, emit)
        if not verdict.missing or time.monotonic() > end:
            return verdict
        time.sleep(1)


def _when(steps: Iterator[float]) -> Callable[[float], None]:
    """Take a scenario's steps when the share that it yielded has been published."""
    due = next(steps)

    def meanwhile(share: float) -> None:
        nonlocal due
        if share >= due:
            due = next(steps, 2.0)

    return meanwhile


@dataclass
class Chaos:
    """One run: known observations at a rate, workers, and what is done to them meanwhile.

    Args:
        servers: The Kafka to use; its topics should be empty, for the verdict reads them whole.
        folder: Where the workers' logs go.
        restart_broker: Stops and starts the broker; only `broker` needs it.
        database: PostgreSQL URL of an empty database, and what stops and starts its server; only
            `database` needs them.
        away_s: How long the database is away.
    """

    servers: str
    folder: Path
    beds: int = 20
    rate: float = 500
    seconds: float = 10
    session_timeout_ms: int = 6_000
    partitions: int = 6
    settle_s: float = 60
    group: str = "vitalstream"
    emit: str = "each"
    command: Sequence[str] = (sys.executable, "-m", "app.cli", "worker")
    restart_broker: Callable[[], None] | None = None
    database: tuple[str, Callable[[], None], Callable[[], None]] | None = None
    away_s: float = 30
    workers: list[Worker] = field(default_factory=list)

    def worker(self) -> Worker:
        """Start another worker."""
        worker = Worker(
            self.servers,
            self.folder / f"worker-{len(self.workers)}.log",
            self.command,
            emit=self.emit,
            session_timeout_ms=self.session_timeout_ms,
            snapshot_every_s=2,
            group=self.group,
            partitions=self.partitions,
        )
        self.workers.append(worker)
        return worker

    def ward(self, url: str) -> Worker:
        """Start a ward on a database, whose tables are made first."""
        line = (sys.executable, "-m", "app.cli")
        subprocess.run([*line, "migrate", "--database", url], cwd=ROOT, check=True, timeout=60)
        ward = Worker(
            self.servers,
            self.folder / "ward.log",
            [*line, "ward"],
            database=url,
            session_timeout_ms=self.session_timeout_ms,
            group=self.group,
            stale_after_ms=STALE_MS,
        )
        self.workers.insert(0, ward)
        return ward

    def run(self, *scenarios: str) -> Verdict:
        """Do what the scenarios say while observations are published; judge the topics."""
        create_topics(self.servers, self.partitions)
        # At one observation a bed and second, or fewer, the beds are watched live, and alerts open.
        live = self.rate <= self.beds
        publisher = Publisher(self.servers, self.beds, live=live)
        count = int(self.rate * self.seconds)
        try:
            self.worker().ready()
            for scenario in scenarios:
                steps = getattr(self, scenario)()
                publisher.publish(count, self.rate, _when(steps))
                for _ in steps:
                    time.sleep(0.05)
            publisher.flush()
            verdict = settle(self.servers, self.settle_s, self.emit)
            if self.database is not None:
                quiet = self.beds if live else 0
                verdict.wrong += judge(self.servers, self.database[0], quiet, self.settle_s)
            return verdict
        finally:
            for worker in self.workers:
                if worker.process.returncode is None:
                    worker.signal(signal.SIGCONT)
                    worker.stop()

    def calm(self) -> Iterator[float]:
        """Nothing happens."""
        yield 1.0

    def kill(self) -> Iterator[float]:
        """SIGKILL the worker under load, start another."""
        yield 0.4
        self.workers[-1].kill()
        self.worker()
        yield 0.7
        self.workers[-1].kill()
        self.worker()

    def rebalance(self) -> Iterator[float]:
        """A second worker comes, and the first one goes."""
        yield 0.3
        self.worker().ready()
        yield 0.7
        self.workers[-2].stop()

    def freeze(self) -> Iterator[float]:
        """SIGSTOP past the session while another worker takes over, then SIGCONT."""
        yield 0.2
        frozen, other = self.workers[-1], self.worker()
        other.ready()
        frozen.ready()
        yield 0.4
        frozen.signal(signal.SIGSTOP)
        yield 1.0
        stopped = time.monotonic()
        while time.monotonic() - stopped < self.session_timeout_ms / 1_000 + 2:
            time.sleep(0.2)
        frozen.signal(signal.SIGCONT)
        assert other.process.poll() is None

    def database_away(self) -> Iterator[float]:
        """Stop PostgreSQL under load as a crash would, start it again after `away_s`."""
        if self.database is None:
            raise ValueError("database_away: no database is given, nor what stops and starts it")
        url, stop, start = self.database
        self.ward(url).ready()
        yield 0.2
        stop()
        gone = time.monotonic()
        while time.monotonic() - gone < self.away_s:
            yield 0.0  # observations flow meanwhile
        start()

    def broker(self) -> Iterator[float]:
        """Restart the broker under load."""
        if self.restart_broker is None:
            raise ValueError("broker: nothing given to restart it with")
        yield 0.5
        self.restart_broker()


def main() -> None:
    """Run scenarios against a Kafka whose topics are empty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kafka", required=True, help="HOST:PORT of a real broker, topics empty")
    parser.add_argument("--scenario", default="kill,rebalance,freeze", help="comma-separated")
    parser.add_argument("--beds", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1_000, help="observations a second")
    parser.add_argument("--seconds", type=float, default=20, help="for each scenario")
    parser.add_argument("--emit", default="each", choices=["each", "latest"])
    parser.add_argument("--restart-broker", help="shell command that restarts the broker")
    parser.add_argument("--database", help="PostgreSQL URL of an empty database")
    parser.add_argument("--stop-database", help="shell command that stops its server at once")
    parser.add_argument("--start-database", help="shell command that starts it again")
    parser.add_argument("--away", type=float, default=30, help="seconds the database is away")
    parser.add_argument("--logs", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    database = None
    if options.database:
        stop, start = _shell(options.stop_database), _shell(options.start_database)
        if stop is None or start is None:
            parser.error("--database needs --stop-database and --start-database")
        database = (options.database, stop, start)
    verdict = Chaos(
        options.kafka,
        options.logs,
        beds=options.beds,
        rate=options.rate,
        seconds=options.seconds,
        emit=options.emit,
        restart_broker=_shell(options.restart_broker),
        database=database,
        away_s=options.away,
    ).run(*options.scenario.split(","))
    print(verdict)
    sys.exit(0 if verdict.holds else 1)


def _shell(command: str | None) -> Callable[[], None] | None:
    """What runs a shell command; None where none is given."""
    if not command:
        return None
    return lambda: _run(command)


def _run(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


if __name__ == "__main__":
    main()
