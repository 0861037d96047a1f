"""What batches cost a device: measured once at the start, and what the batcher decides by."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_WITHIN: Final = 0.9
"""Share of the best throughput that counts as the best."""
_QUICK_S: Final = 0.02
"""Of sizes that are as good, the largest that takes no longer: the fewer batches, the less the loop
and the device's thread stand in each other's way, which a curve does not show.
"""
_SMALL: Final = 8
"""A cap below this must be much better than this: a cap chosen too small costs throughput for
good. What was not measured, for a machine too busy to get so far, is no reason for one.
"""
_BEARABLE_S: Final = 1.0
"""But no batch of a slow device may take longer for it, by what was measured of smaller ones."""
_ENOUGH: Final = 32
"""Sizes up to this are measured however they look at first; on most devices less is not flat."""
_REPEATS: Final = 8
"""Times everything is measured, as long as there is time; the fastest counts."""
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Curve:
    """What a batch costs, measured.

    Attributes:
        bins: Lengths, ascending.
        sizes: Batch sizes, ascending.
        seconds: Time of a batch for each length and size.
    """

    bins: tuple[int, ...]
    sizes: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def cost(self, size: int, bins: int) -> float:
        """Seconds that a batch takes: straight lines between what was measured, and on at the last
        one's rate.
        """
        row = self.seconds[min(bisect_left(self.bins, bins), len(self.bins) - 1)]
        sizes = self.sizes
        if size >= sizes[-1]:
            return row[-1] * size / sizes[-1]
        at = bisect_left(sizes, size)
        if at == 0:
            return row[0]
        left, right = sizes[at - 1], sizes[at]
        return row[at - 1] + (row[at] - row[at - 1]) * (size - left) / (right - left)

    def best(self, bins: int) -> int:
        """The largest quick batch size with (nearly) the best throughput, else the smallest;
        rarely below 8.
        """
        row = self.seconds[min(bisect_left(self.bins, bins), len(self.bins) - 1)]
        rates = [size / seconds for size, seconds in zip(self.sizes, row, strict=True)]
        most = max(rates)
        measured = zip(self.sizes, rates, row, strict=True)
        good = [(size, seconds) for size, rate, seconds in measured if rate >= most * _WITHIN]
        quick = [size for size, seconds in good if seconds <= _QUICK_S]
        found = quick[-1] if quick else good[0][0]
        small_s = self.cost(_SMALL, bins)
        bearable = self.sizes[-1] >= _SMALL or small_s <= _BEARABLE_S
        if found < _SMALL and bearable and _SMALL / small_s >= most * 0.7:
            return _SMALL
        return found


def flat_curve(bins: Iterable[int], size: int) -> Curve:
    """A curve for when nothing was measured: a launch costs as much as `size` windows of the
    longest length.
    """
    lengths = tuple(bins)
    sizes = (1, size)
    return Curve(
        lengths,
        sizes,
        tuple(tuple(size + n * length / lengths[-1] for n in sizes) for length in lengths),
    )


def measure_curve(
    predict: Callable[[int, int], object],
    bins: Sequence[int],
    largest: int = 1024,
    budget_s: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Curve:
    """Measure what batches cost: everything once, then all over again, for a machine that does
    something else for a while must not spoil one size alone; the fastest of each counts.

    Args:
        predict: Predicts a batch of a size and a length; blocks.
        bins: Lengths to measure, ascending.
        largest: Largest batch to try.
        budget_s: About how much time it may take; twice that, where a busy machine has left
            something that was measured only once.
        clock: Seconds.
    """

    def once(size: int, length: int) -> float:
        begun = clock()
        predict(size, length)
        return max(clock() - begun, 1e-9)

    predict(1, bins[-1])
    started = clock()
    sizes: list[int] = []
    rows: list[list[float]] = [[] for _ in bins]
    best, useless = 0.0, 0
    """Best throughput so far, and how many sizes in a row did not better it."""
    for size in _SIZES:
        # The next size takes about as long as all before it; the small ones matter most.
        share = 1 / 2 if size > _SMALL else 2 / 3
        if size > largest or (sizes and clock() - started > budget_s * share):
            break
        sizes.append(size)
        for row, length in zip(rows, bins, strict=True):
            # The first of a shape may also make room or compile.
            first = once(size, length)
            row.append(first if first > budget_s / 50 else min(first, once(size, length)))
        rate = size / rows[-1][-1]
        useless = 0 if rate > 1.03 * best else useless + 1
        best = max(best, rate)
        if size >= _ENOUGH and (rate < 0.8 * best or useless >= 2):
            break
    for turn in range(_REPEATS - 1):
        limit_s = budget_s if turn else 2 * budget_s
        for at, size in enumerate(sizes):
            for row, length in zip(rows, bins, strict=True):
                if clock() - started + row[at] > limit_s:
                    continue
                row[at] = min(row[at], once(size, length))
    # Less never costs more: where it seemed to, the machine was doing something else meanwhile.
    for row, longer in zip(reversed(rows), [None, *reversed(rows)], strict=False):
        for at in range(len(row) - 1, -1, -1):
            after = row[at + 1] if at + 1 < len(row) else row[at]
            row[at] = min(row[at], after, longer[at] if longer is not None else after)
    return Curve(tuple(bins), tuple(sizes), tuple(tuple(row) for row in rows))
