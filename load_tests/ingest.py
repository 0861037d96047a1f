"""Ingest on one core: messages decoded, validated and in windows, beside msgspec's decoding alone,
in one run.

    python load_tests/ingest.py --beds 1000 --messages 200000

The records are what the consumer hands over, already in memory: 250-byte observations of 3 to 5
vitals, beds in random order, a millisecond apart. Both ways run in turns, in chunks of what a poll
returns; the best of the turns is shown, since whatever else the machine does only makes them
slower.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from aiokafka import ConsumerRecord

from models.config import GRID
from models.signals import INDEX
from models.window_store import HostWindowStore
from streaming.codec import VitalsDecoder
from streaming.messages import VITALS, Observation
from streaming.windows import Windows

START_MS = 1_795_409_001_078
VITAL_VALUES = (("hr", 82.0), ("spo2", 97.0), ("resp", 18.0), ("map", 71.5), ("temp", 36.9))


class Home:
    """One store, slots in order."""

    def __init__(self, beds: int) -> None:
        self.store = HostWindowStore(GRID, beds)
        self._free = list(range(beds - 1, -1, -1))

    def claim(self) -> int:
        """The next slot."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self.store.close(slot)
        self._free.append(slot)

    def queued(self, slot: int) -> bool:
        """Nothing is ever due."""
        return False


def records(count: int, beds: int, rate_hz: float | None = None) -> list[ConsumerRecord]:
    """Observations of random beds, 250 bytes each; `rate_hz` times a bed and second, else a
    millisecond apart.
    """
    rng = np.random.default_rng(11)
    order = rng.integers(0, beds, count) if rate_hz is None else np.arange(count) % beds
    kinds = rng.integers(3, 6, count)
    noise = np.round(rng.normal(0, 1.5, (count, 5)), 1)
    step_ms = 1.0 if rate_hz is None else 1000 / rate_hz / beds
    made = []
    for i, (bed, kind) in enumerate(zip(order.tolist(), kinds.tolist(), strict=True)):
        bed_id = f"ward-{bed:05d}"
        values = {
            name: round(middle + float(noise[i, k]) if name != "spo2" else middle, 1)
            for k, (name, middle) in enumerate(VITAL_VALUES[:kind])
        }
        ts_ms = START_MS + int(i * step_ms)
        said = {
            "bed_id": bed_id,
            "ts_ms": ts_ms,
            "values": values,
            "case_id": f"case-{bed:05d}-2026",
            "seq": i,
            "device_id": "",
        }
        said["device_id"] = "m" * max(0, 250 - len(msgspec.json.encode(said)))
        value = msgspec.json.encode(said)
        made.append(
            ConsumerRecord(
                topic=VITALS,
                partition=0,
                offset=i,
                timestamp=ts_ms + 3,
                timestamp_type=1,
                key=bed_id.encode(),
                value=value,
                checksum=None,
                serialized_key_size=len(bed_id),
                serialized_value_size=len(value),
                headers=(),
            )
        )
    return made


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def decode_only(chunks: Sequence[Sequence[ConsumerRecord]]) -> None:
    """What msgspec alone takes to make typed messages."""
    decode = msgspec.json.Decoder(Observation).decode
    for chunk in chunks:
        for record in chunk:
            decode(record.value)


def ingest(chunks: Sequence[Sequence[ConsumerRecord]], beds: int) -> Windows:
    """Bytes to windows, as a worker does it."""
    home = Home(beds)
    windows = Windows(lambda bed_id: home, GRID.digest)
    decoder = VitalsDecoder()
    for chunk in chunks:
        observations, rejected = decoder.decode(chunk)
        if rejected:
            raise RuntimeError(f"{len(rejected)} rejected: {rejected[0].reason}")
        windows.observe(observations, 0, START_MS)
    return windows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beds", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--chunk", type=int, default=2000, help="messages of a poll")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    made = records(options.messages, options.beds)
    chunks = [made[i : i + options.chunk] for i in range(0, len(made), options.chunk)]
    size = sum(len(record.value or b"") for record in made) / len(made)
    windows = ingest(chunks[:3], options.beds)
    windows = ingest(chunks, options.beds)
    for record in made[:: len(made) // 50]:
        check(windows, made, record.key.decode())
    decoded, whole = [], []
    for _ in range(options.turns):
        decoded.append(timed(lambda: decode_only(chunks)))
        whole.append(timed(lambda: ingest(chunks, options.beds)))
    n = len(made)
    print(f"{platform.processor() or platform.machine()}, one core, {size:.0f}-byte messages")
    print(f"decode only              {n / min(decoded):10,.0f} messages/s")
    print(f"decoded, valid, windows  {n / min(whole):10,.0f} messages/s")


def check(windows: Windows, made: Sequence[ConsumerRecord], bed_id: str) -> None:
    """A bed's window ends with its newest message."""
    newest: dict[str, float] = {}
    for record in made:
        if record.key.decode() == bed_id:
            newest |= msgspec.json.decode(record.value)["values"]
    bed = windows.bed(0, bed_id)
    if bed is None:
        raise RuntimeError("a bed is missing")
    found = bed.home.store.gather(np.array([bed.slot], np.int32)).newest_value[0]
    if any(found[INDEX[name]] != np.float32(value) for name, value in newest.items()):
        raise RuntimeError("a window is not what was sent")


if __name__ == "__main__":
    main()
