"""Beds over devices, and what happens when one fails."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from models.config import GRID
from models.window_store import HostWindowStore
from streaming.batcher import Flush
from streaming.observations import Observations
from streaming.shards import DevicesFailed, Done, Shard, Shards
from streaming.windows import Bed, Windows

NOW = 1_800_000_000_000


class Echo:
    """A model that says each window's newest value of the first signal, until it is told to
    fail.
    """

    name = "echo"
    version = "1"
    grid_digest = GRID.digest
    length_buckets = (8, 72)

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.lengths: list[int] = []

    def store(self, capacity: int) -> HostWindowStore:
        return HostWindowStore(GRID, capacity)

    def predict(self, windows: Any) -> Any:
        self.entered.set()
        self.gate.wait(20)
        if self.broken:
            raise RuntimeError("device lost")
        self.lengths.append(windows.hours.shape[1])
        return windows.newest_value[:, 0].tolist()


class Bench:
    """Windows and shards as the pipeline puts them together."""

    def __init__(self, *models: Echo, **options: Any) -> None:
        self.models = models
        self.stopped: list[Exception] = []
        self.shards = Shards(models, self.failed, self.stopped.append, **options)
        self.windows = Windows(self.shards.owner, GRID.digest)
        self.due_again: list[Bed] = []
        self.results: asyncio.Queue[Done] = asyncio.Queue()
        self.offset = 0

    def failed(self, shard: Shard) -> None:
        """What the pipeline does."""
        self.due_again = self.windows.move(shard)
        self.shards.offer(self.due_again, lambda bed_id: False, 0.0)

    def say(self, values: dict[str, float]) -> list[Bed]:
        """A message of each bed; they are due then."""
        n = len(values)
        given = Observations(
            bed_ids=list(values),
            case_ids=[None] * n,
            ts_ms=np.full(n, NOW + self.offset),
            offsets=np.arange(self.offset, self.offset + n),
            broker_ms=np.full(n, NOW),
            sizes=np.ones(n, np.int32),
            signal=np.zeros(n, np.int16),
            value=np.array(list(values.values())),
        )
        self.offset += n
        beds = self.windows.observe(given, 0, NOW).beds
        self.shards.offer(beds, lambda bed_id: False, 0.0)
        return beds

    def send(self) -> int:
        """Hand out what the devices take now. Returns how many batches."""
        batches = 0
        for shard in self.shards.alive:
            while (flush := shard.take(10.0)) is not None:
                by_slot = {bed.slot: bed.bed_id for bed in self.windows if bed.home is shard}
                tag = [by_slot[slot] for slot in flush.slots]
                self.shards.submit(shard, flush, tag, self.results.put_nowait)
                batches += 1
        return batches

    async def answers(self, batches: int) -> dict[str, float]:
        """What the next batches say of each bed."""
        said: dict[str, Any] = {}
        for _ in range(batches):
            done = await asyncio.wait_for(self.results.get(), 20)
            said |= dict(zip(done.tag, done.predictions, strict=True))
        return said


def values(beds: int) -> dict[str, float]:
    """A value for each bed."""
    return {f"bed-{i}": 50.0 + i for i in range(beds)}


async def test_every_bed_gets_its_own_answer_from_its_own_device() -> None:
    """Over three devices, in batches, with more beds than a store begins with."""
    bench = Bench(Echo(), Echo(), Echo("other"))
    await bench.shards.start(0)
    said = values(200)
    beds = bench.say(said)
    assert [shard.name for shard in bench.shards.all] == ["cpu", "cpu#1", "other"]
    assert {bed.home for bed in beds} == set(bench.shards.all)
    answers: dict[str, float] = {}
    while batches := bench.send():
        answers |= await bench.answers(batches)
    assert answers == said
    await bench.shards.stop()


def test_owners_are_spread_and_stable() -> None:
    """The same in every process; a device that comes or goes moves only its own share."""
    beds = [f"bed-{i}" for i in range(3000)]
    three = Bench(Echo("a"), Echo("b"), Echo("c")).shards
    two = Bench(Echo("a"), Echo("b")).shards
    before = [three.owner(bed).name for bed in beds]
    after = [two.owner(bed).name for bed in beds]
    assert all(old in (new, "c") for old, new in zip(before, after, strict=True))
    for name in "abc":
        assert 0.28 < before.count(name) / len(beds) < 0.39
    assert [three.owner(f"bed-{i}").name for i in range(6)] == ["b", "c", "a", "b", "c", "a"]


async def test_when_a_device_fails_its_beds_move_and_nothing_is_lost() -> None:
    """What was under way is predicted elsewhere from the same copies; what waited is due again."""
    good, bad = Echo("good"), Echo("bad")
    bench = Bench(good, bad, max_batch=4)
    await bench.shards.start(0)
    said = values(40)
    bench.say(said)
    bad.gate.clear()
    batches = bench.send()
    under_way = {b for job in bench.shards.all[1].in_flight.values() for b in job.tag}
    assert under_way
    # The windows move on while the device fails: the batch that was taken still says what it was.
    bench.say(dict.fromkeys(under_way, 99.0))
    bad.broken = True
    bad.gate.set()
    answers = await bench.answers(batches)
    assert {bed: answers[bed] for bed in under_way} == {bed: said[bed] for bed in under_way}
    assert [shard.name for shard in bench.shards.alive] == ["good"] and bench.due_again
    assert all(bed.home is bench.shards.all[0] for bed in bench.windows)
    while batches := bench.send():
        answers |= await bench.answers(batches)
    assert answers == said | dict.fromkeys(under_way, 99.0)
    health = bench.shards.health()
    assert health["device good"][0] and not health["device bad"][0]
    assert not bench.stopped
    await bench.shards.stop()


async def test_without_a_device_the_stream_stops() -> None:
    """The reason is the last device's error."""
    bench = Bench(Echo())
    stopped = asyncio.Event()

    def ended(error: Exception) -> None:
        bench.stopped.append(error)
        stopped.set()

    bench.shards._stopped = ended
    await bench.shards.start(0)
    bench.models[0].broken = True
    bench.say(values(1))
    assert bench.send() == 1
    await asyncio.wait_for(stopped.wait(), 20)
    [error] = bench.stopped
    assert isinstance(error, DevicesFailed) and isinstance(error.__cause__, RuntimeError)
    with pytest.raises(DevicesFailed):
        bench.shards.owner("bed-0")
    await bench.shards.stop()


async def test_a_device_that_hangs_can_be_given_up() -> None:
    """What it says later is ignored: another has said it."""
    good, bad = Echo("good"), Echo("bad")
    bench = Bench(good, bad)
    await bench.shards.start(0)
    said = values(20)
    bench.say(said)
    bad.gate.clear()
    batches = bench.send()
    hung = bench.shards.all[1]
    assert await asyncio.to_thread(bad.entered.wait, 20)
    assert hung.stalled(0.0) and not hung.stalled(1e6)
    bench.shards.fail(hung, TimeoutError())
    answers = await bench.answers(batches)
    while more := bench.send():
        answers |= await bench.answers(more)
    assert answers == said
    bad.gate.set()
    await bench.shards.stop()
    await asyncio.sleep(0)
    assert bench.results.empty()


async def test_a_device_that_hangs_is_given_up_by_itself() -> None:
    """After 10 s of looking at one batch; a stop of the whole process is not the device's fault."""
    now_s = 0.0
    good, bad = Echo("good"), Echo("bad")
    bench = Bench(good, bad, clock=lambda: now_s)
    await bench.shards.start(0)
    said = values(20)
    bench.say(said)
    bad.gate.clear()
    batches = bench.send()
    hung = bench.shards.all[1]
    assert await asyncio.to_thread(bad.entered.wait, 20)
    bench.shards.watch()
    now_s = 1_000.0
    bench.shards.watch()
    assert not hung.failed and not bench.shards.health()["device bad"][0]
    for _ in range(10):
        now_s += 0.95
        bench.shards.watch()
    assert hung.failed and list(bench.shards.alive) == [bench.shards.all[0]]
    answers = await bench.answers(batches)
    while more := bench.send():
        answers |= await bench.answers(more)
    assert answers == said
    bad.gate.set()
    await bench.shards.stop()


async def test_a_device_has_at_most_two_batches() -> None:
    """The one it works on and the next; the rest stays in the queue, where it can be replaced."""
    model = Echo()
    bench = Bench(model, max_batch=2)
    await bench.shards.start(0)
    model.gate.clear()
    bench.say(values(10))
    assert bench.send() == 2 and len(bench.shards.all[0].batcher) == 6
    model.gate.set()
    await bench.answers(2)
    assert bench.send() == 2
    await bench.answers(2)
    await bench.shards.stop()


async def test_a_window_that_grew_in_the_queue_is_padded_to_its_new_length() -> None:
    """What is gathered is the window of the moment."""
    model = Echo()
    bench = Bench(model)
    await bench.shards.start(0)
    [bed] = bench.say(values(1))
    slot = np.array([bed.slot], np.int32)
    bed.home.store.touch(slot, np.array([NOW + 20 * 3_600_000]))
    bench.shards.submit(
        bench.shards.all[0], Flush([bed.slot], 8, "idle", [0.0]), ["x"], bench.results.put_nowait
    )
    await bench.answers(1)
    assert model.lengths == [72]
    await bench.shards.stop()


async def test_the_caps_come_from_the_measured_curve() -> None:
    """Every length and size up to where it no longer pays."""
    model = Echo()
    bench = Bench(model)
    await bench.shards.start(0.2)
    assert {8, 72} <= set(model.lengths)
    assert all(cap >= 1 for cap in bench.shards.all[0].batcher.caps)
    await bench.shards.stop()


def test_no_devices_is_an_error() -> None:
    """There is nothing to predict with."""
    with pytest.raises(ValueError, match="devices"):
        Bench()


def test_curves_are_measured_one_at_a_time() -> None:
    """Two measured at once would each see half a machine: a worker and an api start together."""
    inside, most, calls = 0, 0, 0
    lock = threading.Lock()

    class Watched(Echo):
        def predict(self, windows: Any) -> Any:
            nonlocal inside, most, calls
            with lock:
                inside, calls = inside + 1, calls + 1
                most = max(most, inside)
            try:
                return super().predict(windows)
            finally:
                with lock:
                    inside -= 1

    both = [Shards([Watched("cpu")], lambda _: None, lambda _: None) for _ in range(2)]
    threads = [threading.Thread(target=one.measure, args=(0.05,)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and calls > 20
