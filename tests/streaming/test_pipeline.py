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

from streaming.codec import decode_snapshot
from streaming.consumer import TopicPartition
from streaming.membership import _Target
from streaming.messages import Case
from streaming.options import Options
from streaming.partition import Partition
from streaming.pipeline import Pipeline
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
        self.pipeline.intake.take(self.partition, records, self.pipeline._clock())
        self.pipeline.scoring.pump()
        await self.idle()

    async def idle(self) -> None:
        """Wait for the devices' threads."""
        shards = self.pipeline.scoring.shards
        while any(s.in_flight or len(s.batcher) for s in shards.alive):  # noqa: ASYNC110 threads
            await asyncio.sleep(0.001)

    def acknowledge(self) -> list[dict[str, Any]]:
        """All that was sent is acknowledged; the predictions among it."""
        sent, self.sent[:] = list(self.sent), []
        self.pipeline.scoring.acknowledged(sent)
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
        pipeline.scoring.publisher.put = sent.extend  # type: ignore[method-assign]
        await pipeline.scoring.shards.start(0)
        partition = Partition(0, 1, 120.0)
        partition.restored = True
        pipeline.scoring.partitions[0] = partition
        return Bench(pipeline, partition, sent)

    yield make
    for pipeline in pipelines:
        await pipeline.scoring.shards.stop()
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
    bench.pipeline.membership.forget(0)
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
    assert bench.pipeline.intake.rejected.qsize() == 1


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
    bench.pipeline.stays.changed(0, "b", Case("b", "c", "closed", 0), 1)
    assert [(m.topic, m.value) for m in bench.sent] == [("icu.windows", None)]
    await bench.ingest(record(1, case_id="c"))
    assert bench.acknowledge() == []
    assert bench.partition.progress.position == 2


async def test_a_case_that_ends_while_a_window_is_due_waits_for_it(start: Start) -> None:
    """`each`: the message before the end is predicted, the one after is not, and both are done."""
    bench = await start(emit="each")
    pipeline, partition = bench.pipeline, bench.partition
    pipeline.intake.take(partition, [record(0, case_id="c")], 0.0)
    pipeline.stays.changed(0, "b", Case("b", "c", "closed", 0), 1)
    pipeline.intake.take(partition, [record(1, case_id="c")], 0.0)
    pipeline.scoring.pump()
    await bench.idle()
    assert [p["source"]["offset"] for p in bench.acknowledge()] == [0]
    assert partition.progress.position == 2


async def test_a_case_ends_although_nothing_more_is_said(start: Start) -> None:
    """`each`: the end that waited for the window takes effect once that was gathered."""
    bench = await start(emit="each")
    pipeline = bench.pipeline
    pipeline.intake.take(bench.partition, [record(0, case_id="c")], 0.0)
    pipeline.stays.changed(0, "b", Case("b", "c", "closed", 0), 1)
    pipeline.scoring.pump()
    await bench.idle()
    bed = pipeline.scoring.windows.bed(0, "b")
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

    monkeypatch.setattr("streaming.membership.restore", restore)
    monkeypatch.setattr("streaming.membership.RETRY_S", 0.0)
    consumer: Any = SimpleNamespace(committed=committed, resume=lambda *_: None)
    pipeline.membership.consumer = consumer
    await pipeline.membership.restore(TopicPartition("icu.vitals", 0), partition)
    bed = pipeline.scoring.windows.bed(0, "b")
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
    bench.pipeline.intake.take(bench.partition, [record(0)], 0.0)
    bench.pipeline.scoring.pump()
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
    bench.pipeline.membership.consumer = consumer
    await bench.ingest(*(record(i) for i in range(12)))
    bench.pipeline.membership.hold_back()
    bench.pipeline.membership.hold_back()
    bench.acknowledge()
    bench.pipeline.membership.hold_back()
    assert calls == ["pause", "resume"]


async def test_a_snapshot_waits_for_the_commit(start: Start) -> None:
    """Captured at offset k, sent once k is committed, and needed by nobody when acknowledged."""
    bench = await start(emit="each")
    await bench.ingest(record(0), record(1))
    bench.acknowledge()
    bench.pipeline.captures.take(bench.partition, 0.0, every=True)
    bench.pipeline.captures.publish(bench.partition)
    assert bench.sent == []
    assert bench.partition.needed(2) == 0
    bench.partition.committed = (2, 0)
    bench.pipeline.captures.publish(bench.partition)
    (snapshot,) = bench.sent
    assert json.loads(snapshot.value)["source"] == {"partition": 0, "offset": 1}
    bench.acknowledge()
    assert bench.partition.needed(2) == 2


async def test_a_prediction_under_way_outlives_its_case(start: Start) -> None:
    """`latest`: another case comes; what was begun is done when acknowledged, the rest is lost."""
    bench = await start(emit="latest", min_rescore_ms=60_000)
    pipeline, partition = bench.pipeline, bench.partition
    skipped: list[tuple[str, int]] = []
    pipeline.stays._telemetry = SimpleNamespace(skipped=lambda *said: skipped.append(said))
    await bench.ingest(record(0, case_id="one"))
    await bench.ingest(record(1, case_id="one"))  # waits until the bed may speak again
    pipeline.stays.changed(0, "b", Case("b", "two", "open", 0), 1)
    assert skipped == [("case_ended", 1)]
    assert partition.progress.position == 0
    assert [p["case_id"] for p in bench.acknowledge()] == ["one"]
    assert partition.progress.position == 2


async def test_an_acknowledgement_covers_only_its_own_messages(start: Start) -> None:
    """`each`: the later of two predictions is acknowledged first; the other one is still due."""
    bench = await start(emit="each")
    await bench.ingest(record(0), record(1))
    first, bench.sent[:] = bench.sent[:1], bench.sent[1:]
    bench.acknowledge()
    assert bench.partition.progress.position == 0
    bench.sent[:] = first
    bench.acknowledge()
    assert bench.partition.progress.position == 2


async def test_a_new_case_that_nobody_speaks_of_holds_no_log_back(start: Start) -> None:
    """Its names are captured without a window, so a restart need not read the old case again."""
    bench = await start(emit="each")
    pipeline, partition = bench.pipeline, bench.partition
    await bench.ingest(record(0, case_id="one"))
    bench.acknowledge()
    pipeline.stays.changed(0, "b", Case("b", "two", "open", 1_000_500), 1)
    assert partition.needed(1) == 0
    pipeline.captures.take(partition, pipeline._clock() + 2)
    partition.committed = (1, 0)
    pipeline.captures.publish(partition)
    (sent,) = [m for m in bench.sent if m.topic == "icu.windows"]
    bench.acknowledge()
    assert partition.needed(1) == 1
    snapshot = decode_snapshot(sent.value)
    assert (snapshot.case_id, snapshot.previous_cases, snapshot.window) == ("two", ["one"], b"")
    again = (await start(emit="each")).pipeline.scoring.windows
    again.restore(snapshot)
    bed = again.bed(0, "b")
    assert bed is not None and (bed.case_id, bed.slot, bed.seen) == ("two", -1, 0)
    assert bed.stranger("one", 3_000_000) == "other_case"


@pytest.mark.parametrize("emit", ["latest", "each"])
async def test_strangers_are_refused_when_there_is_no_room(start: Start, emit: str) -> None:
    """At most `max_beds`; others go to the dead letters, the beds that are known go on."""
    bench = await start(emit=emit, max_beds=2)
    await bench.ingest(record(0, "a"), record(1, "b"), record(2, "x"), record(3, "a"))
    assert len(bench.pipeline.scoring.windows) == 2
    assert bench.acknowledge()[-1]["bed_id"] in "ab"
    partition, rejected = bench.pipeline.intake.rejected.get_nowait()
    assert [(r.record.offset, r.reason) for r in rejected] == [(2, "too_many_beds")]
    assert partition.progress.position == 2
    partition.finish([2])
    assert partition.progress.position == 4
    assert bench.pipeline.health()["beds"] == (False, "2 of at most 2")


async def test_readiness_names_the_model_and_what_computes_it(start: Start) -> None:
    """The engine in use, not one that might be."""
    pipeline = (await start()).pipeline
    model: Any = pipeline._model
    model.engine = "native"
    said = f"{model.name} {model.version}, native engine"
    assert pipeline.health()["model"] == (True, said)


async def test_a_restore_makes_no_room_for_strangers(start: Start) -> None:
    """The log still holds what was refused; reading it again brings no bed."""
    bench = await start(max_beds=1)
    target = _Target(bench.pipeline.membership, bench.partition)
    target.restore_tail([record(0, "a"), record(1, "x"), record(2, "a")])
    assert [bed.bed_id for bed in bench.pipeline.scoring.windows] == ["a"]
    assert bench.partition.needed(3) == 0


async def test_a_bed_that_is_silent_for_days_is_forgotten(start: Start) -> None:
    """Its slot is free and its snapshot is deleted; a bed that is heard, or not done, stays."""
    bench = await start(emit="latest", bed_idle_h=96.0)
    windows = bench.pipeline.scoring.windows
    await bench.ingest(record(0, "gone"), record(1, "heard"))
    bench.acknowledge()
    await bench.ingest(record(2, "due"))
    heard = windows.bed(0, "heard")
    assert heard is not None
    heard.heard_ms += 1
    later_ms = 2_000_000 + 96 * 3_600_000 + 1
    bench.pipeline.captures.forget(bench.partition, later_ms)
    assert [bed.bed_id for bed in windows] == ["heard", "due"]
    assert sorted(bench.partition.accounts) == ["due", "heard"]
    assert [(m.key, m.value) for m in bench.sent if m.topic == "icu.windows"] == [(b"gone", None)]
    bench.acknowledge()
    bench.pipeline.captures.forget(bench.partition, later_ms)
    assert [bed.bed_id for bed in windows] == ["heard"]
    await bench.ingest(record(3, "gone"))
    (back,) = bench.acknowledge()
    assert list(back["inputs"]) == ["hr"]
