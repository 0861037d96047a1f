"""CPU per sample as the number of beds grows: each bed speaks once a second, polls bring what came
in 10 ms.

    python load_tests/samples.py

What is measured is the worker's part before the network: decode, validate, windows, the batcher's
bookkeeping, and the copy of the due windows (`latest`: every bed that spoke). Wall and Kafka are
not in it. Polls are the same size at every number of beds, so that only the number of beds differs;
`--live` lets them grow with the beds as they do in a ward.
"""

from __future__ import annotations

import argparse
import gc
import os
import time

import numpy as np
from ingest import START_MS, records

from models.config import GRID
from models.window_store import HostWindowStore
from streaming.batcher import Batcher
from streaming.codec import VitalsDecoder
from streaming.curve import flat_curve
from streaming.windows import Bed, Windows

BUCKETS = (8, 24, 48, 72)


class Home:
    """A store, its free slots and its queue."""

    def __init__(self, beds: int) -> None:
        self.store = HostWindowStore(GRID, beds)
        self.batcher = Batcher(BUCKETS, flat_curve(BUCKETS, 32), max_batch=64)
        self._free = list(range(beds - 1, -1, -1))

    def claim(self) -> int:
        """The next slot."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self.store.close(slot)
        self._free.append(slot)

    def queued(self, slot: int) -> bool:
        """Whether a slot's window is due."""
        return slot in self.batcher


def sample_us(beds: int, messages: int, chunk: int, turns: int) -> float:
    """CPU microseconds of a sample, the best of some turns."""
    made = records(messages, beds, rate_hz=1.0)
    home = Home(beds)
    windows = Windows(lambda bed_id: home, GRID.digest)
    decoder = VitalsDecoder()
    # Every bed has been heard of before the clock starts.
    warm = records(beds, beds, rate_hz=1.0)
    observations, _ = decoder.decode(warm)
    windows.observe(observations, 0, START_MS)
    for bed in windows:
        bed.seen = -1
    best = float("inf")
    gc.collect()
    for _ in range(turns):
        for bed in windows:
            bed.seen = -1
        begun = time.thread_time()
        for at in range(0, len(made), chunk):
            observations, _ = decoder.decode(made[at : at + chunk])
            observed = windows.observe(observations, 0, START_MS)
            offer(home, observed.beds)
            while (flush := home.batcher.take(0.0, idle=True)) is not None:
                home.store.gather(np.array(flush.slots, np.int32), flush.bins)
        best = min(best, time.thread_time() - begun)
    return best / len(made) * 1e6


def offer(home: Home, beds: list[Bed]) -> None:
    """Put the windows that are due in the queue."""
    slots = np.array([bed.slot for bed in beds], np.int32)
    lengths = home.store.lengths(slots).tolist()
    groups = home.store.groups(slots).tolist()
    for slot, length, held in zip(slots.tolist(), lengths, groups, strict=True):
        home.batcher.offer(slot, length, held, False, 0.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beds", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--chunk", type=int, default=10, help="messages of a poll")
    parser.add_argument(
        "--live", action="store_true", help="polls of 1/100 of the beds, at least 1"
    )
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = []
    print("    beds  messages a poll  CPU us a sample")
    for beds in options.beds:
        chunk = max(1, beds // 100) if options.live else options.chunk
        microseconds = sample_us(beds, options.messages, chunk, options.turns)
        found.append(microseconds)
        print(f"{beds:8,}  {chunk:15,}  {microseconds:15.1f}")
    print(f"most to least: {max(found) / min(found):.2f}")


if __name__ == "__main__":
    main()
