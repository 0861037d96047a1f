"""The grid of a window: which signals are kept in bins of which width, for how long."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from models.signals import NAMES, VITALS

HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One resolution of a window.

    Attributes:
        name: What it is called.
        width_ms: Width of a bin.
        bins: How many bins back from the newest event time the window reaches.
        signals: Names of the signals that are kept, in the order of the arrays' last axis.
    """

    name: str
    width_ms: int
    bins: int
    signals: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.width_ms < 1 or self.bins < 1:
            raise ValueError(f"scale {self.name}: width and bins must be positive")
        unknown = [signal for signal in self.signals if signal not in NAMES]
        if unknown or len(set(self.signals)) != len(self.signals) or not self.signals:
            raise ValueError(f"scale {self.name}: signals must be known and distinct: {unknown}")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The scales of a window, the longest first; that one carries every signal and decides what is
    late.
    """

    scales: tuple[Scale, ...]

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("a grid has at least one scale")
        if self.scales[0].signals != NAMES:
            raise ValueError("the first scale carries every signal, in the order of the catalogue")

    @property
    def digest(self) -> str:
        """Names everything that the meaning of a packed window depends on; 16 hex digits of
        SHA-256.
        """
        said = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


HOURS: Final = Scale(name="hours", width_ms=HOUR_MS, bins=72, signals=NAMES)
MINUTES: Final = Scale(name="minutes", width_ms=MINUTE_MS, bins=60, signals=VITALS)
GRID: Final = Grid(scales=(HOURS, MINUTES))
"""The default: 72 hours of every signal, and the last hour of the vitals by the minute."""
