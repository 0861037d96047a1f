"""Kill, stop and rebalance workers on a real Kafka, then prove that nothing was lost.

    python load_tests/chaos.py --kafka 127.0.0.1:9092 --scenario kill,freeze --seconds 20

Observations are known values by bed and sequence number. The proof reads `icu.vitals` and
`icu.predictions` and replays the observations through an oracle of its own, ten lines of
dictionaries, that shares no code with the worker:

- every accepted observation has a prediction whose `source` is its offset (`emit=each`);
- all repeats of an identity are equal in every field but `produced_ms`;
- each prediction's case, time and inputs are the oracle's: every accepted observation is in the
  windows, no window holds a value of another case or bed.
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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = ("hr", "spo2", "resp", "map", "temp")
OBSERVATIONS_A_CASE = 40
START_MS = int(time.time() * 1000) - 3_600_000


def observation(bed: int, seq: int, start_ms: int = START_MS, run: str = "") -> dict[str, Any]:
    """The known message of a bed: values name bed and number; some are null, late or empty."""
    number = seq // OBSERVATIONS_A_CASE
    ts_ms = start_ms + seq * 1_000
    values: dict[str, float | None] = {
        "hr": 40 + bed % 100 + (seq % 997) / 1_000,
        "spo2": 90 + (seq % 10),
        "resp": None if seq % 7 == 3 else 10 + seq % 20,
    }
    if seq % 5 == 0:
        values["map"] = 60 + seq % 40
    if seq % 11 == 4:
        values["temp"] = 36 + (seq % 30) / 10
    if seq % 13 == 6:
        values = {}
    if seq % 17 == 9:
        ts_ms -= 5_500
    if seq % OBSERVATIONS_A_CASE == 3 and number:
        number -= 1  # A straggler of the patient before: must reach no window.
    return {
        "bed_id": f"{run}bed-{bed:04d}",
        "ts_ms": ts_ms,
        "values": values,
        "case_id": f"case-{bed}-{number}",
        "seq": seq,
    }


@dataclass
class Oracle:
    """What a bed's window must say after each message, by the rules of the contract."""

    case_id: str | None = None
    earlier: set[str] = field(default_factory=set)
    ts_ms: int = -1
    newest: dict[str, tuple[int, float]] = field(default_factory=dict)

    def take(self, message: dict[str, Any]) -> bool:
        """Whether the message is accepted; it is in the window then."""
        case_id = message.get("case_id")
        if case_id in self.earlier:
            return False
        if case_id is not None and case_id != self.case_id:
            if self.case_id is not None:
                self.earlier.add(self.case_id)
            self.case_id, self.ts_ms, self.newest = case_id, -1, {}
        self.ts_ms = max(self.ts_ms, message["ts_ms"])
        for name, value in message["values"].items():
            known = self.newest.get(name)
            if value is not None and (known is None or known[0] <= message["ts_ms"]):
                self.newest[name] = (message["ts_ms"], value)
        return True

    def inputs(self) -> dict[str, dict[str, float]]:
        """The `inputs` of a prediction made now."""
        return {
            name: {"v": round(float(np.float32(value)), 4), "age_ms": self.ts_ms - ts_ms}
            for name, (ts_ms, value) in self.newest.items()
        }


@dataclass
class Verdict:
    """What the topics say."""

    observations: int = 0
    accepted: int = 0
    predictions: int = 0
    repeats: int = 0
    missing: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return self.accepted > 0 and not (
            self.missing or self.unequal or self.wrong or self.unasked
        )

    def __str__(self) -> str:
        faults = ", ".join(
            f"{len(found)} {name} (first: {found[0]})"
            for name, found in vars(self).items()
            if isinstance(found, list) and found
        )
        return (
            f"{self.observations} observations, {self.accepted} accepted, "
            f"{self.predictions} predictions, {self.repeats} repeats; "
            f"{faults or 'nothing missing, nothing wrong'}"
        )


def read_topic(servers: str, topic: str) -> Iterator[Any]:
    """All records of a topic, partition by partition order kept, up to its end as of now."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"verifier-{time.time_ns()}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 1,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {}
        for p in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)
            if high > low:
                ends[p] = high
        consumer.assign([TopicPartition(topic, p, 0) for p in ends])
        while ends:
            records = consumer.consume(1_000, timeout=1.0)
            yield from (r for r in records if r.error() is None)
            for position in consumer.position([TopicPartition(topic, p) for p in ends]):
                if position.offset >= ends[position.partition]:
                    del ends[position.partition]
    finally:
        consumer.close()


def verify(servers: str, emit: str = "each") -> Verdict:
    """Judge the topics as they are now."""
    verdict = Verdict()
    expected: dict[tuple[int, int], tuple[str, str | None, int, dict[str, Any]]] = {}
    oracles: dict[str, Oracle] = defaultdict(Oracle)
    for record in read_topic(servers, "icu.vitals"):
        message = json.loads(record.value())
        verdict.observations += 1
        oracle = oracles[message["bed_id"]]
        if oracle.take(message):
            verdict.accepted += 1
            expected[record.partition(), record.offset()] = (
                message["bed_id"],
                oracle.case_id,
                oracle.ts_ms,
                oracle.inputs(),
            )
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in read_topic(servers, "icu.predictions"):
        prediction = json.loads(record.value())
        verdict.predictions += 1
        prediction.pop("produced_ms")
        source = (prediction["source"]["partition"], prediction["source"]["offset"])
        identity = (prediction["bed_id"], source, prediction["model_version"])
        before = seen.setdefault(identity, prediction)
        if before is not prediction:
            verdict.repeats += 1
            if before != prediction:
                fields = [k for k in prediction if prediction[k] != before.get(k)]
                verdict.unequal.append(f"{identity}: {fields}")
        wanted = expected.get(source)
        if wanted is None:
            verdict.unasked.append(str(identity))
            continue
        for name, want in zip(("bed_id", "case_id", "ts_ms", "inputs"), wanted, strict=True):
            if prediction[name] != want:
                verdict.wrong.append(f"{identity}: {name} {prediction[name]!r} for {want!r}")
    if emit == "each":
        have = {identity[1] for identity in seen}
        verdict.missing = [str(source) for source in expected if source not in have]
    else:
        newest: dict[str, tuple[int, int]] = {}
        for source, (bed_id, *_) in expected.items():
            newest[bed_id] = max(newest.get(bed_id, source), source)
        have = {identity[1] for identity in seen}
        verdict.missing = [str(source) for source in newest.values() if source not in have]
    return verdict


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
    """Sends the known observations at a steady rate; counts what the broker acknowledged."""

    def __init__(self, servers: str, beds: int, run: str = "") -> None:
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
        self.sent = 0

    def publish(self, count: int, rate: float, meanwhile: Callable[[float], None]) -> None:
        """Send `count` observations, round robin; `meanwhile` is called with the share sent."""
        started = time.monotonic()
        for i in range(count):
            message = observation(self.sent % self._beds, self.sent // self._beds, run=self._run)
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
    """A worker process."""

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

    def ready(self, timeout_s: float = 30) -> None:
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
        while share >= due:
            due = next(steps, 2.0)

    return meanwhile


@dataclass
class Chaos:
    """One run: known observations at a rate, workers, and what is done to them meanwhile.

    Args:
        servers: The Kafka to use; its topics should be empty, for the verdict reads them whole.
        folder: Where the workers' logs go.
        restart_broker: Stops and starts the broker; only `broker` needs it.
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

    def run(self, *scenarios: str) -> Verdict:
        """Do what the scenarios say while observations are published; judge the topics."""
        create_topics(self.servers, self.partitions)
        publisher = Publisher(self.servers, self.beds)
        count = int(self.rate * self.seconds)
        try:
            self.worker().ready()
            for scenario in scenarios:
                steps = getattr(self, scenario)()
                publisher.publish(count, self.rate, _when(steps))
                for _ in steps:
                    pass
            publisher.flush()
            return settle(self.servers, self.settle_s, self.emit)
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
    parser.add_argument("--restart-broker", help="shell command that restarts the broker")
    parser.add_argument("--logs", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    restart: Callable[[], None] | None = None
    if options.restart_broker:
        command = options.restart_broker

        def restart() -> None:
            subprocess.run(command, shell=True, check=True)

    verdict = Chaos(
        options.kafka,
        options.logs,
        beds=options.beds,
        rate=options.rate,
        seconds=options.seconds,
        restart_broker=restart,
    ).run(*options.scenario.split(","))
    print(verdict)
    sys.exit(0 if verdict.holds else 1)


if __name__ == "__main__":
    main()
