"""From Kafka record to prediction, as a share of the bare model's best throughput in the same run.

    python load_tests/share.py --beds 1000 --rounds 4

Both sides use the same model on one device thread with one network thread. The bare side predicts
gathered windows of the same beds at its best batch size. The stream side takes records as the
consumer delivers them through decoding, windows, batcher, network, assembling and JSON; only the
sockets are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import predictor
from streaming.partition import Partition
from streaming.pipeline import Options, Pipeline

START_MS = 1_700_000_000_000


LABS = {
    "wbc": 9.1,
    "lactate": 1.4,
    "creatinine": 1.0,
    "bun": 18,
    "glucose": 132,
    "potassium": 4.1,
    "sodium": 139,
    "hct": 33,
    "platelets": 210,
    "hco3": 24,
    "ph": 7.38,
    "pao2": 92,
    "fio2": 0.4,
}
"""A morning's laboratory values: a real bed holds about eighteen signals, not five."""


def records(beds: int, round_: int) -> list[Any]:
    """One observation of every bed; the first brings laboratory values too."""
    out = []
    for bed in range(beds):
        ts_ms = START_MS + round_ * 60_000
        values: dict[str, float] = {
            "hr": 60 + bed % 60,
            "spo2": 96,
            "resp": 12 + round_ % 9,
            "map": 70,
            "temp": 37,
        }
        if round_ == 0:
            values |= LABS
        message = {"bed_id": f"bed-{bed}", "ts_ms": ts_ms, "values": values}
        out.append(
            SimpleNamespace(
                topic="icu.vitals",
                partition=0,
                offset=round_ * beds + bed,
                key=message["bed_id"].encode(),  # type: ignore[attr-defined]
                value=json.dumps(message).encode(),
                timestamp=START_MS + 3_600_000_000,
                timestamp_type=1,
                headers=(),
            )
        )
    return out


async def stream(model: Any, beds: int, rounds: int) -> tuple[float, Pipeline]:
    """Predictions a second through the pipeline."""
    pipeline = Pipeline("127.0.0.1:1", [model], Options(group="share", emit="each"))
    sent = 0

    def put(messages: Any) -> None:
        nonlocal sent
        sent += len(messages)
        pipeline.scoring.acknowledged(messages)

    pipeline.scoring.publisher.put = put  # type: ignore[method-assign]
    await pipeline.scoring.shards.start(1.5)
    partition = Partition(0, 1, 120.0)
    partition.restored = True
    pipeline.scoring.partitions[0] = partition
    batches = [records(beds, r) for r in range(rounds + 1)]

    async def until(count: int) -> None:
        while sent < count:  # noqa: ASYNC110 results come from the device's thread
            await asyncio.sleep(0.0005)

    def ingest(batch: list[Any]) -> None:
        pipeline.intake.take(partition, batch, pipeline._clock())
        pipeline.scoring.pump()

    ingest(batches[0])
    await until(beds)
    sent = 0
    begun = time.perf_counter()
    for batch in batches[1:]:
        ingest(batch)
        await asyncio.sleep(0)
    await until(beds * rounds)
    return sent / (time.perf_counter() - begun), pipeline


def bare(model: Any, pipeline: Pipeline, beds: int, seconds: float) -> float:
    """Predictions a second of the model alone, at its best batch size, on the same windows."""
    store = pipeline.scoring.shards.all[0].store
    slots = np.arange(beds, dtype=np.int32)
    best = 0.0
    for size in (16, 32, 64, 128, 256):
        windows = store.gather(slots[:size])
        model.predict(windows)
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            model.predict(windows)
            done += size
        best = max(best, done / (time.perf_counter() - begun))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beds", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    model = predictor.load(None, "cpu", 1)
    through, pipeline = asyncio.run(stream(model, options.beds, options.rounds))
    ceiling = bare(model, pipeline, options.beds, 1.0)
    print(
        f"bare model {ceiling:.0f}/s, record to prediction {through:.0f}/s: {through / ceiling:.2f}"
    )


if __name__ == "__main__":
    main()
