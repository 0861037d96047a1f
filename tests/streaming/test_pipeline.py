"""The worker's stream without a broker: records in, messages out, offsets done."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streaming.consumer import TopicPartition
from streaming.messages import Case
from streaming.partition import Partition
from streaming.pipeline import Options, Pipeline
from streaming.shards import DevicesFailed


def tiny_model(device: str = "cpu") -> Any:
    """The deterministic stand-in of `load_tests/tiny_worker.py`."""
    path = Path(__file__).resolve().parents[2] / "load_tests" / "tiny_worker.py"
    spec = importlib.util.spec_from_file_location("tiny_worker", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault("tiny_worker", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module.TinyModel(device)


def record(offset: int, bed: str = "b", hr: float = 70, **fields: Any) -> Any:
    """A record of `icu.vitals`."""
    message = {"bed_id": bed, "ts_ms": 1_000_000 + offset * 1_000, "values": {"hr": hr}} | fields
    return SimpleNamespace(
        topic="icu.vitals",
        partition=0,
        offset=offset,
        key=bed.encode(),
        value=json.dumps(message).encode(),
        timestamp=2_000_000,
        timestamp_type=1,
        headers=(),
    )


@dataclass
class Bench:
    """A pipeline whose publisher keeps what it is given until the test acknowledges it."""

    pipeline: Pipeline
    partition: Partition
    sent: list[Any]

    async def ingest(self, *records: Any) -> None:
        """Records arrive; returns when the devices have nothing more to do."""
        self.pipeline._ingest(self.partition, records, self.pipeline._clock())
        self.pipeline._pump()
        await self.idle()

    async def idle(self) -> None:
        """Wait for the devices' threads."""
        shards = self.pipeline._shards
        while any(s.in_flight or len(s.batcher) for s in shards.alive):  # noqa: ASYNC110 threads
            await asyncio.sleep(0.001)

    def acknowledge(self) -> list[dict[str, Any]]:
        """All that was sent is acknowledged; the predictions among it."""
        sent, self.sent[:] = list(self.sent), []
        self.pipeline._acknowledged(sent)
        return [json.loads(m.value) for m in sent if m.topic == "icu.predictions"]


Start = Callable[..., Any]


@pytest.fixture
async def start() -> Any:
    """Start a bench: `await start(emit=…, models=[…])`."""
    pipelines = []

    async def make(models: Any = None, **options: Any) -> Bench:
        pipeline = Pipeline(
            "127.0.0.1:1",
            models or [tiny_model()],
            Options(group="g", max_batch=16, **options),
            clock_ms=lambda: 2_000_000,
        )
        pipelines.append(pipeline)
        pipeline._failure = asyncio.get_running_loop().create_future()
        sent: list[Any] = []
        pipeline._publisher.put = sent.extend  # type: ignore[method-assign]
        await pipeline._shards.start(0)
        partition = Partition(0, 1, 120.0)
        partition.restored = True
        pipeline._partitions[0] = partition
        return Bench(pipeline, partition, sent)

    yield make
    for pipeline in pipelines:
        await pipeline._shards.stop()
        if pipeline._failure is not None and pipeline._failure.done():
            pipeline._failure.exception()


async def test_each_predicts_every_observation_in_order(start: Start) -> None:
    """Each prediction holds what its own message said, although all came in one bulk."""
    bench = await start(emit="each")
    await bench.ingest(*(record(i, hr=60 + i) for i in range(30)))
    predictions = bench.acknowledge()
    assert [p["source"]["offset"] for p in predictions] == list(range(30))
    assert [p["inputs"]["hr"]["v"] for p in predictions] == [60 + i for i in range(30)]
    assert bench.partition.progress.position == 30


async def test_latest_is_done_with_what_a_newer_window_covers(start: Start) -> None:
    """One prediction for the bulk; its acknowledgement finishes all offsets, not before."""
    bench = await start(emit="latest")
    await bench.ingest(*(record(i) for i in range(30)))
    assert bench.partition.progress.position == 0
    assert [p["source"]["offset"] for p in bench.acknowledge()] == [29]
    assert bench.partition.progress.position == 30


async def test_offsets_are_done_only_up_to_the_first_without_acknowledgement(start: Start) -> None:
    """Another bed's acknowledgement does not pass over a missing one."""
    bench = await start(emit="each")
    await bench.ingest(record(0, "a"), record(1, "b"))
    kept = [m for m in bench.sent if m.key == b"a"]
    bench.sent[:] = [m for m in bench.sent if m.key == b"b"]
    bench.acknowledge()
    assert bench.partition.progress.position == 0
    bench.sent[:] = kept
    bench.acknowledge()
    assert bench.partition.progress.position == 2


async def test_an_acknowledgement_of_a_past_epoch_is_ignored(start: Start) -> None:
    """After a revocation nothing moves any more, and nothing fails."""
    bench = await start(emit="each")
    await bench.ingest(record(0))
    bench.pipeline._forget(0)
    bench.acknowledge()
    assert bench.partition.progress.position == 0


async def test_a_redelivered_record_is_not_predicted_again(start: Start) -> None:
    """The same offsets once more in the same epoch begin nothing."""
    bench = await start(emit="each")
    await bench.ingest(record(0), record(1))
    await bench.ingest(record(0), record(1))
    assert len(bench.acknowledge()) == 2


async def test_a_bad_message_waits_for_its_dead_letter(start: Start) -> None:
    """Its offset is not done before the dead letter is acknowledged; its neighbours go on."""
    bench = await start(emit="each")
    bad = record(0)
    bad.value = b"{"
    await bench.ingest(bad, record(1))
    assert len(bench.acknowledge()) == 1
    assert bench.partition.progress.position == 0
    assert bench.pipeline._rejected.qsize() == 1


async def test_a_bed_without_values_is_watched(start: Start) -> None:
    """An empty observation has its prediction, which says that it is too early to speak."""
    bench = await start(emit="each")
    await bench.ingest(record(0, values={}))
    (prediction,) = bench.acknowledge()
    assert prediction["status"] == "warming_up"
    assert prediction["risks"] == {}


async def test_a_closed_case_stops_its_bed(start: Start) -> None:
    """Observations after the end are done without a prediction; the snapshot gets a tombstone."""
    bench = await start(emit="each")
    await bench.ingest(record(0, case_id="c"))
    bench.acknowledge()
    bench.pipeline._case_changed(0, "b", Case("b", "c", "closed", 0), 1)
    assert [(m.topic, m.value) for m in bench.sent] == [("icu.windows", None)]
    await bench.ingest(record(1, case_id="c"))
    assert bench.acknowledge() == []
    assert bench.partition.progress.position == 2


async def test_a_case_that_ends_while_a_window_is_due_waits_for_it(start: Start) -> None:
    """`each`: the message before the end is predicted, the one after is not, and both are done."""
    bench = await start(emit="each")
    pipeline, partition = bench.pipeline, bench.partition
    pipeline._ingest(partition, [record(0, case_id="c")], 0.0)
    pipeline._case_changed(0, "b", Case("b", "c", "closed", 0), 1)
    pipeline._ingest(partition, [record(1, case_id="c")], 0.0)
    pipeline._pump()
    await bench.idle()
    assert [p["source"]["offset"] for p in bench.acknowledge()] == [0]
    assert partition.progress.position == 2


async def test_a_case_ends_although_nothing_more_is_said(start: Start) -> None:
    """`each`: the end that waited for the window takes effect once that was gathered."""
    bench = await start(emit="each")
    pipeline = bench.pipeline
    pipeline._ingest(bench.partition, [record(0, case_id="c")], 0.0)
    pipeline._case_changed(0, "b", Case("b", "c", "closed", 0), 1)
    pipeline._pump()
    await bench.idle()
    bed = pipeline._windows.bed(0, "b")
    assert bed is not None and bed.closed and bed.slot == -1
    assert [p["source"]["offset"] for p in bench.acknowledge()] == [0]


async def test_a_restore_that_fails_is_tried_again_from_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log did not answer half-way: what was read by then is read again and not a repeat."""
    bench = await start(emit="each")
    pipeline, partition = bench.pipeline, bench.partition
    partition.restored = False
    tries = 0

    async def restore(servers: str, number: int, committed: Any, grid: str, target: Any) -> None:
        nonlocal tries
        tries += 1
        target.restore_tail([record(0), record(1)])
        if tries == 1:
            raise TimeoutError

    async def committed(tp: Any) -> tuple[int, str]:
        return 2, ""

    monkeypatch.setattr("streaming.pipeline.restore", restore)
    monkeypatch.setattr("streaming.pipeline.RETRY_S", 0.0)
    consumer: Any = SimpleNamespace(committed=committed, resume=lambda *_: None)
    pipeline._consumer = consumer
    await pipeline._restore(TopicPartition("icu.vitals", 0), partition)
    bed = pipeline._windows.bed(0, "b")
    assert tries == 2 and partition.restored
    assert bed is not None and bed.source == 1 and partition.progress.position == 2
    assert partition.needed(2) == 0


async def test_spacing_delays_and_does_not_lose(start: Start) -> None:
    """`min_rescore_ms`: the newest window is predicted by the timer although nothing new comes."""
    bench = await start(emit="latest", min_rescore_ms=700)
    await bench.ingest(record(0))
    await bench.ingest(record(1))
    await bench.ingest(record(2))
    assert [p["source"]["offset"] for p in bench.acknowledge()] == [0]
    async with asyncio.timeout(5):
        while not bench.sent:  # noqa: ASYNC110 a timer of the loop
            await asyncio.sleep(0.005)
    assert [p["source"]["offset"] for p in bench.acknowledge()] == [2]
    assert bench.partition.progress.position == 3


async def test_a_failing_device_loses_nothing(start: Start) -> None:
    """Its beds move with their windows; every observation still has its prediction."""
    bad, good = tiny_model("cpu"), tiny_model("cpu")

    def fail(windows: Any) -> Any:
        raise RuntimeError("device lost")

    bad.predict = fail
    bench = await start(emit="each", models=[bad, good])
    await bench.ingest(*(record(i, f"bed-{i % 8}", hr=60 + i) for i in range(40)))
    predictions = {p["source"]["offset"]: p for p in bench.acknowledge()}
    assert sorted(predictions) == list(range(40))
    assert all(p["inputs"]["hr"]["v"] == 60 + o for o, p in predictions.items())


async def test_without_a_device_the_stream_stops(start: Start) -> None:
    """The failure comes out of `wait`."""
    bad = tiny_model()

    def fail(windows: Any) -> Any:
        raise RuntimeError("device lost")

    bad.predict = fail
    bench = await start(emit="each", models=[bad])
    bench.pipeline._ingest(bench.partition, [record(0)], 0.0)
    bench.pipeline._pump()
    with pytest.raises(DevicesFailed):
        await asyncio.wait_for(bench.pipeline.wait(), 5)


async def test_too_much_under_way_pauses_until_half_is_done(start: Start) -> None:
    """Partitions pause above `queue_limit` and resume below half of it."""
    bench = await start(emit="each", queue_limit=10)
    calls: list[str] = []
    consumer: Any = SimpleNamespace(
        assignment=frozenset(),
        pause=lambda *_: calls.append("pause"),
        resume=lambda *_: calls.append("resume"),
    )
    bench.pipeline._consumer = consumer
    await bench.ingest(*(record(i) for i in range(12)))
    bench.pipeline._hold_back()
    bench.pipeline._hold_back()
    bench.acknowledge()
    bench.pipeline._hold_back()
    assert calls == ["pause", "resume"]


async def test_a_snapshot_waits_for_the_commit(start: Start) -> None:
    """Captured at offset k, sent once k is committed, and needed by nobody when acknowledged."""
    bench = await start(emit="each")
    await bench.ingest(record(0), record(1))
    bench.acknowledge()
    bench.pipeline._capture(bench.partition, True, 0.0)
    bench.pipeline._publish_snapshots(bench.partition)
    assert bench.sent == []
    assert bench.partition.needed(2) == 0
    bench.partition.committed = (2, 0)
    bench.pipeline._publish_snapshots(bench.partition)
    (snapshot,) = bench.sent
    assert json.loads(snapshot.value)["source"] == {"partition": 0, "offset": 1}
    bench.acknowledge()
    assert bench.partition.needed(2) == 2
