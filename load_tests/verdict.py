"""Known observations, and what the topics must say of them by an oracle that shares no code with
the worker: ten lines of dictionaries.

- every accepted observation has a prediction whose `source` is its offset (`emit=each`); each bed's
  newest accepted one has (`emit=latest`);
- all repeats of an identity are equal in every field but `produced_ms`;
- each prediction's case, time and inputs are the oracle's: every accepted observation is in the
  windows, no window holds a value of another case or bed.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition

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
