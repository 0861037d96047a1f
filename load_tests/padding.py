"""What grouping windows by length gains over padding to the longest, on the real length mix of
PhysioNet 2019.

    python load_tests/padding.py --data ../shared/data

Each window is a stay cut at one of its hours, all hours alike: what a ward of these patients holds
at a random moment. The same windows are predicted in the order of their arrival, in batches of the
best size padded to the longest of the batch and to the whole window, and as the batcher groups them
by its measured curve.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import checkpoint, predictor
from models.config import GRID
from models.data import physionet2019
from models.data.stays import Stay
from models.window_store import HostWindowStore
from streaming.batcher import Batcher
from streaming.curve import Curve, measure_curve
from streaming.model import Cells

ADMITTED_MS = 1_795_392_000_000


def load() -> predictor.Predictor:
    """The shipped model; an untrained one of the same shape costs the same."""
    if checkpoint.SHIPPED.exists():
        return predictor.load()
    return predictor.Predictor(checkpoint.Calibrated(), "untrained")


def cut(stays: list[Stay], count: int, rng: np.random.Generator) -> HostWindowStore:
    """Windows of stays that are still going on: every patient-hour is as likely as any other."""
    hours = np.array([len(stay.times_ms) for stay in stays])
    store = HostWindowStore(GRID, count)
    for slot, hour in enumerate(rng.choice(int(hours.sum()), count, replace=False).tolist()):
        which = int(np.searchsorted(np.cumsum(hours), hour, side="right"))
        last = hour - int(hours[:which].sum())
        stay = stays[which]
        keep = stay.row <= last
        store.open(slot, ADMITTED_MS, None)
        one = np.array([slot], np.int32)
        store.touch(one, ADMITTED_MS + stay.times_ms[last : last + 1])
        n = int(keep.sum())
        store.apply(
            Cells(
                np.full(n, slot, np.int32),
                stay.signal[keep],
                ADMITTED_MS + stay.times_ms[stay.row[keep]],
                stay.value[keep],
            )
        )
    return store


def arrivals(store: HostWindowStore, model: Any, cap: int, bins: int | None) -> float:
    """Seconds for all windows in batches of `cap` as they come."""
    begun = time.perf_counter()
    lengths = store.lengths(np.arange(store.capacity, dtype=np.int32))
    for at in range(0, store.capacity, cap):
        slots = np.arange(at, min(at + cap, store.capacity), dtype=np.int32)
        longest = int(lengths[slots].max())
        bucket = next(b for b in model.length_buckets if b >= longest)
        model.predict(store.gather(slots, bins or bucket))
    return time.perf_counter() - begun


def grouped(store: HostWindowStore, model: Any, curve: Curve, cap: int) -> float:
    """Seconds for all windows as the batcher groups them, its own work included."""
    begun = time.perf_counter()
    batcher = Batcher(model.length_buckets, curve, max_batch=cap)
    slots = np.arange(store.capacity, dtype=np.int32)
    lengths, groups = store.lengths(slots).tolist(), store.groups(slots).tolist()
    for slot, length, held in zip(slots.tolist(), lengths, groups, strict=True):
        batcher.offer(slot, length, held, False, 0.0)
    while (flush := batcher.take(0.0, idle=True)) is not None:
        model.predict(store.gather(np.array(flush.slots, np.int32), flush.bins))
    return time.perf_counter() - begun


def lengths_of(store: HostWindowStore) -> NDArray[np.int32]:
    """Every window's length."""
    return store.lengths(np.arange(store.capacity, dtype=np.int32))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of recorded sets")
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--stays", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=0, help="cap of a batch; 0: the curve's best")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    stays: list[Stay] = []
    for stay in physionet2019.read([options.data / "physionet2019"], False, lambda bad: None):
        stays.append(stay.bounded())
        if len(stays) >= options.stays:
            break
    store = cut(stays, options.windows, np.random.default_rng(5))
    lengths = lengths_of(store)
    quarter, half, most = np.percentile(lengths, [25, 50, 90]).tolist()
    print(f"{len(lengths)} windows of {len(stays)} stays, hours of history:")
    print(f"  a quarter below {quarter:.0f}, half below {half:.0f}, nine tenths below {most:.0f}")
    model = load()

    def trial(size: int, bins: int) -> object:
        slots = np.argsort(np.abs(lengths - bins), kind="stable")[:size]
        short = slots[lengths[slots] <= bins]
        return model.predict(store.gather(np.resize(short, size).astype(np.int32), bins))

    curve = measure_curve(trial, model.length_buckets, largest=256, budget_s=20.0)
    cap = options.batch or curve.best(model.length_buckets[-1])
    ways = {
        "padded to the window": lambda: arrivals(store, model, cap, model.length_buckets[-1]),
        "padded to the batch's longest": lambda: arrivals(store, model, cap, None),
        "grouped by the batcher": lambda: grouped(store, model, curve, options.batch),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(options.turns):
        for name, way in ways.items():
            best[name] = min(best[name], way())
    print(f"model {model.version}, batches of {cap}")
    slowest = best["padded to the batch's longest"]
    for name, seconds in best.items():
        rate = store.capacity / seconds
        print(f"{name:30} {rate:9,.0f} windows/s  {slowest / seconds:5.2f}")


if __name__ == "__main__":
    main()
