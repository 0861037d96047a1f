"""Does the running service say what the offline evaluation says?

    python load_tests/online_offline.py --data DATA --patients 500

Starts a real Kafka and a worker, replays recorded stays, reads `icu.predictions`, and compares the
prediction of every hour with what the weights say offline of the same row (`models.training.rows`,
which training and evaluation use). Exits 1 where one lacks or differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from models.data import Stay, open_set  # noqa: E402
from models.network import RISKS  # noqa: E402
from models.predictor import Predictor, load  # noqa: E402
from models.training.cache import folder_of  # noqa: E402
from models.training.rows import rows_of  # noqa: E402

BOUND = 1e-5
SHOWN = 5
SETS = ("physionet2019", "physionet2012", "eicu-demo")


@dataclass(frozen=True)
class Offline:
    """What the weights say of the hours of a stay: by time since admission, in ms."""

    said: dict[int, dict[str, float]]


def offline(predictor: Predictor, stay: Stay) -> Offline:
    """Probabilities of every hour; an empty one where the model does not speak."""
    windows = rows_of(stay).windows
    found = predictor.predict(windows)
    said = {}
    for i, at in enumerate(windows.newest_ms.tolist()):
        risks = dict(zip(RISKS, found.p[i].tolist(), strict=True))
        said[at] = risks if found.speaks[i] else {}
    return Offline(said)


@dataclass
class Compared:
    """What came of it."""

    patients: int
    predictions: int = 0
    missing: int = 0
    largest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Every hour was predicted, and within the bound."""
        return self.predictions > 0 and not self.missing and self.largest <= BOUND

    def __str__(self) -> str:
        return (
            f"{self.patients} patients, {self.predictions} hours, {self.missing} missing, "
            f"largest difference {self.largest:.2e}"
        )


def predictions(servers: str, partitions: int) -> Generator[dict[str, Any]]:
    """Predictions as they come, from the topic's beginning; an empty one where none came."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": f"online-offline-{time.time_ns()}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.assign([TopicPartition("icu.predictions", p, 0) for p in range(partitions)])
        while True:
            records = consumer.consume(1_000, timeout=0.5)
            for record in records:
                if record.error() is None:
                    yield json.loads(record.value())
            if not records:
                yield {}
    finally:
        consumer.close()


def compare(
    expected: dict[str, Offline], said: Iterable[dict[str, Any]], patience_s: float
) -> Compared:
    """Hold predictions against what is expected, until all hours came or time is over.

    Args:
        expected: By bed.
        said: Predictions; empty ones where nothing came.
        patience_s: Without a new hour.
    """
    result = Compared(len(expected))
    left = {(bed, at) for bed, stay in expected.items() for at in stay.said}
    until_s = time.monotonic() + patience_s
    for prediction in said:
        if not prediction:
            if time.monotonic() > until_s:
                break
            continue
        bed, case_id = prediction["bed_id"], prediction["case_id"]
        if bed not in expected or case_id is None:
            continue
        at = prediction["ts_ms"] - int(case_id.rpartition("-")[2])
        if (bed, at) not in left:
            continue
        left.discard((bed, at))
        until_s = time.monotonic() + patience_s
        result.predictions += 1
        want = expected[bed].said[at]
        got = {name: risk["p"] for name, risk in prediction["risks"].items()}
        if got.keys() != want.keys():
            result.largest = float("inf")
        elif want:
            apart = max(abs(got[name] - want[name]) for name in want)
            result.largest = max(result.largest, apart)
            if apart > BOUND and len(result.wrong) < SHOWN:
                result.wrong.append(f"{bed} at {at} ms: {got} where {want}")
        if not left:
            break
    result.missing = len(left)
    return result


def main() -> None:
    """Run it, print one line, and JSON for the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--patience", type=float, default=120.0)
    given = parser.parse_args()
    from live import Product

    sets = given.sets.split(",")
    each = [len(part) for part in np.array_split(np.arange(given.patients), len(sets))]
    predictor = load()
    expected: dict[str, Offline] = {}
    for name, count in zip(sets, each, strict=True):
        stays = open_set(name, [folder_of(given.data, name)])
        expected |= {stay.record: offline(predictor, stay) for stay in islice(stays, count)}
    with Product(environment={"VITALSTREAM_EMIT": "each"}) as product:
        product.start("worker", "worker")
        for name, count in zip(sets, each, strict=True):
            path = str(folder_of(given.data, name))
            options = ("--speed", "max", "--limit", str(count))
            if product.start(f"replay-{name}", "replay", name, path, *options).wait(600):
                raise SystemExit(f"replay failed: {product.log(f'replay-{name}')}")
        servers = product.kafka.servers
        with closing(predictions(servers, 12)) as said:
            result = compare(expected, said, given.patience)
        if not result.holds:
            print(product.log("worker"), *result.wrong, sep="\n", file=sys.stderr)
    print(result)
    command = f"python load_tests/online_offline.py --data DATA --patients {given.patients}"
    print(
        json.dumps(
            {
                "command": command,
                "patients": result.patients,
                "predictions": result.predictions,
                "largest_difference": result.largest,
            }
        )
    )
    sys.exit(0 if result.holds else 1)


if __name__ == "__main__":
    main()
