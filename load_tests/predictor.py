"""Time of `Predictor.predict` by size of batch and length of history, on one thread.

    python load_tests/predictor.py --before CHECKOUT
    python load_tests/predictor.py --before CHECKOUT --data ../shared/data --processes 2

With `--before`, another checkout of the repository is measured in turns with this one, and the
ratio of the better medians of three rounds is printed. Beds hold 3 hours of 19 of the 45 signals
every 15 minutes; `bins` is what the batch is padded to.

With `--data` the windows are stays of PhysioNet 2019, each cut at one of its hours, batches are of
windows of like length, and only the rate counts: of all processes together, each on a thread of its
own. Processor time beside it says what other work on the machine cost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
SIZES = (1, 8, 32, 128, 512)
BINS = (4, 24, 72)
REAL_SIZES = (1, 8, 64, 512)


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


def measure_recorded(data: Path, seconds: float) -> dict[str, list[float]]:
    """Windows, seconds and seconds of the processor of calls, by size of batch."""
    import numpy as np
    import torch

    from models import predictor
    from models.data import physionet2019

    sys.path.insert(0, str(HERE / "load_tests"))
    from padding import cut

    torch.set_num_threads(1)
    model = predictor.load()
    stays = itertools.islice(
        physionet2019.read([data / "physionet2019"], False, lambda bad: None), 1000
    )
    store = cut([stay.bounded() for stay in stays], max(REAL_SIZES), np.random.default_rng(5))
    slots = np.arange(max(REAL_SIZES), dtype=np.int32)
    order = np.argsort(store.lengths(slots), kind="stable").astype(np.int32)
    said = {}
    for size in REAL_SIZES:
        batches = [store.gather(order[at : at + size]) for at in range(0, len(order), size)]
        for windows in batches:
            model.predict(windows)
        begun, busy, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begun < seconds:
            for windows in batches:
                model.predict(windows)
            count += len(order)
        said[str(size)] = [count, time.perf_counter() - begun, time.process_time() - busy]
    return said


def child(root: Path, *more: str) -> subprocess.Popen[bytes]:
    """A process that measures on the packages of a checkout."""
    command = [sys.executable, __file__, "--child", str(root), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it said."""
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measuring process ended with {process.returncode}")
    said: dict[str, Any] = json.loads(out)
    return said


def one(root: Path, turns: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    return answer(child(root, "--turns", str(turns)))


def recorded(roots: list[Path], data: Path, processes: int, seconds: float) -> None:
    """Print windows a second of each checkout in turns, the better of three rounds."""
    rates: dict[str, list[tuple[float, float]]] = {}
    for _ in range(3):
        for number, root in enumerate(roots):
            more = ("--data", str(data.resolve()), "--seconds", str(seconds))
            some = [child(root.resolve(), *more) for _ in range(processes)]
            answers = [answer(process) for process in some]
            for size in answers[0]:
                rate = sum(said[size][0] / said[size][1] for said in answers)
                busy = sum(said[size][2] for said in answers) / sum(s[size][0] for s in answers)
                best = rates.setdefault(size, [(0.0, float("inf"))] * len(roots))
                best[number] = (max(best[number][0], rate), min(best[number][1], busy))
    print("batch  windows/s  processor us/window  before windows/s  us/window  ratio of us")
    for size, best in rates.items():
        (rate, busy), *before = best
        old = "".join(f"{r:16,.0f}  {b * 1e6:9.1f}  {b / busy:11.2f}" for r, b in before)
        print(f"{size:>5}  {rate:9,.0f}  {busy * 1e6:19.1f}  {old}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--data", type=Path, help="folder of recorded sets: their windows")
    parser.add_argument("--processes", type=int, default=1, help="at once, with --data")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a size, with --data")
    options = parser.parse_args()
    if options.child:
        sys.path.insert(0, str(options.child))
        if options.data:
            print(json.dumps(measure_recorded(options.data, options.seconds)))
        else:
            print(json.dumps(measure(options.turns)))
        return
    if options.data:
        roots = [HERE, *([options.before] if options.before else [])]
        recorded(roots, options.data, options.processes, options.seconds)
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
