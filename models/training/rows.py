"""Rows of training: windows of a stay as a worker would have held them, hour by hour.

A row is the last message of an hour bin that has one. Its window follows the rule of the window
store: a bin holds the newest value up to then, bins are cut at admission. Nothing later than the
row's message is looked at, but for its labels.

Axes: N rows of a stay, T hour bins, M minute bins, S signals, V vitals, R risks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.config import HOUR_MS, HOURS, MINUTE_MS, MINUTES
from models.data import Stay
from models.features import VITAL_AT
from models.network import RISKS
from models.signals import COUNT, INDEX
from models.window_store import Windows

HYPOTENSION_MMHG: Final = 65.0
HYPOXAEMIA_PERCENT: Final = 90.0
UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Rows:
    """Windows of one stay and what followed: labels int8[N, R], -1 where nothing says so."""

    windows: Windows
    labels: NDArray[np.int8]
    hour: NDArray[np.int64]


def rows_of(stay: Stay, bins: int = HOURS.bins) -> Rows:
    """Every row of a stay that has values within bounds, in order."""
    stay = stay.bounded()
    hour_all = stay.times_ms // HOUR_MS
    last = np.r_[hour_all[1:] != hour_all[:-1], True]
    at = np.nonzero(last)[0]
    times, hour = stay.times_ms[at], hour_all[at]
    first = int(hour[0])
    ts = stay.times_ms[stay.row]

    grid = np.full((int(hour[-1]) - first + bins, COUNT), np.nan, np.float32)
    # Values are in the order of time, so that a bin's newest is the one written last.
    grid[ts // HOUR_MS - first + bins - 1, stay.signal] = stay.value
    hours = sliding_window_view(grid, bins, axis=0)[hour - first].transpose(0, 2, 1)

    minutes = _minutes(stay, ts, times)
    value, age = _newest(stay, ts, times, hour)
    filled = (~np.isnan(hours)).sum(2) > 0
    length = np.where(filled.any(1), bins - filled.argmax(1), 1).astype(np.int32)
    case = stay.case
    windows = Windows(
        hours=hours,
        minutes=minutes,
        newest_value=value,
        newest_age_ms=age,
        newest_ms=times,
        phase_ms=np.full(len(times), case.admitted_ms, np.int64),
        length=length,
        cases=[case] * len(times),
    )
    return Rows(windows, _labels(stay, ts, times, at), hour)


def _minutes(stay: Stay, ts: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.float32]:
    """The last hour of the vitals by the minute, float32[N, M, V]."""
    bins = MINUTES.bins
    out = np.full((len(times), bins, len(VITAL_AT)), np.nan, np.float32)
    column = np.full(COUNT, -1)
    column[list(VITAL_AT)] = np.arange(len(VITAL_AT))
    vital = column[stay.signal] >= 0
    minute, signal, value = ts[vital] // MINUTE_MS, column[stay.signal[vital]], stay.value[vital]
    ends = np.searchsorted(ts[vital], times, side="right")
    starts = np.searchsorted(minute, times // MINUTE_MS - bins + 1)
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        back = times[i] // MINUTE_MS - minute[start:end]
        out[i, bins - 1 - back, signal[start:end]] = value[start:end]
    return out


def _newest(
    stay: Stay, ts: NDArray[np.int64], times: NDArray[np.int64], hour: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Newest value of each signal within the window and its age, [N, S]."""
    value = np.full((len(times), COUNT), np.nan, np.float32)
    age = np.full((len(times), COUNT), -1, np.int64)
    for signal in np.unique(stay.signal).tolist():
        mine = stay.signal == signal
        at = np.searchsorted(ts[mine], times, side="right") - 1
        when = ts[mine][np.maximum(at, 0)]
        here = (at >= 0) & (when >= (hour - HOURS.bins + 1) * HOUR_MS)
        value[here, signal] = stay.value[mine][at[here]]
        age[here, signal] = (times - when)[here]
    return value, age


def _labels(
    stay: Stay, ts: NDArray[np.int64], times: NDArray[np.int64], at: NDArray[np.int64]
) -> NDArray[np.int8]:
    labels = np.full((len(times), len(RISKS)), UNKNOWN, np.int8)
    known = stay.labels
    if known is not None and known.sepsis is not None:
        labels[:, RISKS.index("sepsis")] = known.sepsis[at]
    if known is not None and known.mortality is not None:
        labels[:, RISKS.index("mortality")] = known.mortality
    for risk, name, limit in (
        ("hypotension", "map", HYPOTENSION_MMHG),
        ("hypoxaemia", "spo2", HYPOXAEMIA_PERCENT),
    ):
        mine = stay.signal == INDEX[name]
        when, low = ts[mine], np.r_[0, np.cumsum(stay.value[mine] < limit)]
        start = np.searchsorted(when, times, side="right")
        end = np.searchsorted(when, times + HOUR_MS, side="right")
        seen = (low[end] > low[start]).astype(np.int8)
        labels[:, RISKS.index(risk)] = np.where(end > start, seen, UNKNOWN)
    return labels
