"""Minute aggregates of the observations themselves, so that a skipped prediction costs no trend.
Pure.

A row is a function of the set of observations: each second of the minute counts once in `n` and
`total` (with the value that came first), and minimum, maximum and last do not mind repeats. So a
message that comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from models.signals import SIGNALS

MINUTE_MS: Final = 60_000

Key = tuple[str, str, int]
"""Bed, signal, start of the minute in ms."""

_BOUNDS: Final = {s.name: (s.low, s.high) for s in SIGNALS}


@dataclass(slots=True)
class Minute:
    """One row; `seen` has bit i set where second i of the minute counts in `n` and `total`."""

    n: int = 0
    total: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    last: float = 0.0
    last_ms: int = -1
    seen: int = 0


@dataclass(slots=True)
class _Fresh:
    """What came for a row since it was last taken."""

    seconds: dict[int, float] = field(default_factory=dict)
    low: float = float("inf")
    high: float = float("-inf")
    last: float = 0.0
    last_ms: int = -1


class Trends:
    """Collects observations and merges them into rows when they are to be written."""

    def __init__(self) -> None:
        self._rows: dict[Key, Minute] = {}
        self._fresh: dict[Key, _Fresh] = {}

    def __len__(self) -> int:
        return len(self._fresh)

    def add(self, bed_id: str, ts_ms: int, values: Mapping[str, float | None]) -> None:
        """Take in an observation; null, unknown signals and values out of bounds are left out."""
        minute_ms = ts_ms - ts_ms % MINUTE_MS
        second = (ts_ms - minute_ms) // 1000
        for name, value in values.items():
            if value is None or (bounds := _BOUNDS.get(name)) is None:
                continue
            if not bounds[0] <= value <= bounds[1]:
                continue
            key = (bed_id, name, minute_ms)
            fresh = self._fresh.get(key)
            if fresh is None:
                fresh = self._fresh[key] = _Fresh()
            if second not in fresh.seconds:
                fresh.seconds[second] = value
            if value < fresh.low:
                fresh.low = value
            if value > fresh.high:
                fresh.high = value
            if ts_ms >= fresh.last_ms:
                fresh.last, fresh.last_ms = value, ts_ms

    def unknown(self) -> list[Key]:
        """Rows to be written of which it is not known what the database has."""
        return [key for key in self._fresh if key not in self._rows]

    def merge(self, stored: Mapping[Key, Minute]) -> list[tuple[Key, Minute]]:
        """Rows to write, in the order of their keys, given what the database has of the unknown
        ones.

        What came stays until `written`, and merging it again changes nothing.
        """
        rows: list[tuple[Key, Minute]] = []
        for key in sorted(self._fresh):
            fresh = self._fresh[key]
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = stored.get(key) or Minute()
            for second, value in fresh.seconds.items():
                bit = 1 << second
                if not row.seen & bit:
                    row.seen |= bit
                    row.n += 1
                    row.total += value
            row.low = min(row.low, fresh.low)
            row.high = max(row.high, fresh.high)
            if fresh.last_ms >= row.last_ms:
                row.last, row.last_ms = fresh.last, fresh.last_ms
            rows.append((key, row))
        return rows

    def written(self) -> None:
        """What `merge` gave is in the database: forget what came, and rows that get no more.

        A row that is wanted again later is read again.
        """
        self._rows = {key: self._rows[key] for key in self._fresh}
        self._fresh.clear()
