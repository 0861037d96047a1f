"""Time of `Predictor.predict` by size of batch and length of history, on one thread.

    python load_tests/predictor.py --before CHECKOUT

With `--before`, another checkout of the repository is measured in turns with this one, and the
ratio of the better medians of three rounds is printed. Beds hold 3 hours of 19 of the 45 signals
every 15 minutes; `bins` is what the batch is padded to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
SIZES = (1, 8, 32, 128, 512)
BINS = (4, 24, 72)


def measure(turns: int) -> dict[str, float]:
    """Median milliseconds of a call, by `size/bins`, of the package on the path."""
    import numpy as np
    import torch

    from models import predictor
    from models.signals import COUNT, HIGH, LOW
    from streaming.model import Cells

    torch.set_num_threads(1)
    model = predictor.load()
    store = model.store(max(SIZES))
    rng = np.random.default_rng(0)
    for slot in range(max(SIZES)):
        store.open(slot, 0, None)
        held = np.r_[:7, rng.choice(np.arange(7, COUNT), 12, replace=False)].astype(np.int16)
        at = np.full(len(held), slot, np.int32)
        for ts in range(0, 3 * 3_600_000, 900_000):
            when = np.full(len(held), ts, np.int64)
            value = LOW[held] + (HIGH - LOW)[held] * rng.uniform(0.2, 0.8, len(held))
            store.touch(at[:1], when[:1])
            store.apply(Cells(at, held, when, value.astype(np.float32)))
    said = {}
    for size in SIZES:
        for bins in BINS:
            windows = store.gather(np.arange(size, dtype=np.int32), bins)
            model.predict(windows)
            took = []
            for _ in range(max(5, turns // size)):
                begun = time.perf_counter()
                model.predict(windows)
                took.append(time.perf_counter() - begun)
            said[f"{size}/{bins}"] = float(np.median(took)) * 1e3
    return said


def one(root: Path, turns: int) -> dict[str, float]:
    """`measure` in a process of its own, on the packages of a checkout."""
    command = [sys.executable, __file__, "--child", str(root), "--turns", str(turns)]
    said: dict[str, float] = json.loads(subprocess.check_output(command))
    return said


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=200)
    options = parser.parse_args()
    if options.child:
        sys.path.insert(0, str(options.child))
        print(json.dumps(measure(options.turns)))
        return
    now: dict[str, float] = {}
    before: dict[str, float] = {}
    # In turns, the better median of each: other work on the machine comes and goes.
    for _ in range(3):
        for root, best in ((HERE, now), (options.before, before)):
            if root:
                for key, took in one(root.resolve(), options.turns).items():
                    best[key] = min(best.get(key, took), took)
    print("windows  bins       ms  windows/s  before ms  ratio")
    for key, took in now.items():
        size, bins = map(int, key.split("/"))
        old = f"{before[key]:9.2f}  {before[key] / took:5.2f}" if before else ""
        print(f"{size:7}  {bins:4}  {took:7.2f}  {size / took * 1e3:9,.0f}  {old}")


if __name__ == "__main__":
    main()
