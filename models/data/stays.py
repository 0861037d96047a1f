"""What a recorded set gives: stays, as sparse values at their times, and labels apart from them.

A stay holds what a monitor, a laboratory and an admission form could say. Labels are read only
where asked for, so that whoever replays a set cannot see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models import signals

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000

Sex = Literal["female", "male"]
UnitType = Literal["medical", "surgical", "coronary", "cardiac_surgery", "neuro", "mixed"]


class BadRecord(ValueError):
    """One record that cannot be read: says which file, which line and why."""

    def __init__(self, file: str, line: int | None, why: str) -> None:
        super().__init__(f"{file}{'' if line is None else f':{line}'}: {why}")
        self.file = file
        self.line = line


@dataclass(slots=True)
class Admission:
    """What is known on admission, under the names of `streaming.messages.Case`; times relative to
    admission.
    """

    admitted_ms: int = 0
    hospital_admitted_ms: int | None = None
    age_years: float | None = None
    sex: Sex | None = None
    unit_type: UnitType | None = None
    weight_kg: float | None = None
    height_cm: float | None = None
    problems: list[str] = field(default_factory=list)
    spo2_scale: Literal[1, 2] | None = None


@dataclass(slots=True)
class Labels:
    """What happened: for training and evaluation only.

    Attributes:
        sepsis: The label of PhysioNet 2019 at each of the stay's times, int8[n].
        mortality: Death in hospital, 0 or 1.
        hospital: Hospital the stay was in.
        diagnoses: Charted diagnoses, also those made later.
    """

    sepsis: NDArray[np.int8] | None = None
    mortality: int | None = None
    hospital: str | None = None
    diagnoses: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Stay:
    """One patient's stay: n distinct message times and m measured values.

    Attributes:
        set_name: The recorded set.
        record: The record's id, which replay uses as the bed id.
        case: What was known on admission.
        times_ms: Message times since admission, ascending, int64[n]; also of rows without values.
        row: Index into `times_ms` of each value, ascending, int32[m].
        signal: Index into `models.signals.SIGNALS`, int16[m].
        value: In the catalogue's unit, bounds not yet checked (`in_bounds`), float32[m].
        labels: Present only where labels were asked for.
    """

    set_name: str
    record: str
    case: Admission
    times_ms: NDArray[np.int64]
    row: NDArray[np.int32]
    signal: NDArray[np.int16]
    value: NDArray[np.float32]
    labels: Labels | None = None

    def bounded(self) -> Stay:
        """The same stay without the values outside the catalogue's bounds: what a worker would use
        of it.
        """
        keep = in_bounds(self.signal, self.value)
        return Stay(
            self.set_name,
            self.record,
            self.case,
            self.times_ms,
            self.row[keep],
            self.signal[keep],
            self.value[keep],
            self.labels,
        )


def in_bounds(signal: NDArray[np.int16], value: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which values are finite and within the catalogue's bounds, bool[m].

    Compared in float64, as a worker compares what it decoded.
    """
    wide = value.astype(np.float64)
    kept: NDArray[np.bool_] = (wide >= signals.LOW[signal]) & (wide <= signals.HIGH[signal])
    return kept


def from_grid(
    times_ms: NDArray[np.int64], columns: Sequence[int], grid: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.float32]]:
    """Sparse (row, signal, value) of a dense table float64[n, k], NaN where nothing was measured.

    Args:
        times_ms: The rows' times, only their number matters.
        columns: The signal of each of the k columns.
        grid: The table.
    """
    if grid.shape != (len(times_ms), len(columns)):
        raise ValueError(f"table of {grid.shape}, expected {(len(times_ms), len(columns))}")
    row, column = np.nonzero(~np.isnan(grid))
    signal = np.asarray(columns, np.int16)[column]
    return row.astype(np.int32), signal, grid[row, column].astype(np.float32)


def plausible(value: float | None, low: float, high: float) -> float | None:
    """A number of the admission form, or None where it is missing or cannot be a person's."""
    return value if value is not None and low <= value <= high else None


def fraction(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inspired oxygen as a fraction: values of 15 and more were charted in percent."""
    scaled: NDArray[np.float64] = np.where(value >= 15.0, value / 100.0, value)
    return scaled
