"""Does a monitor that repeats itself every second get the same risk as one that speaks hourly?

Hourly stays are played twice: as they are, and with each vital sign repeated every second until its
next value. At the moment of an hourly message both have said the same; what differs is how often.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.data import Stay
from models.evaluation.faithfulness import log_odds
from models.evaluation.told import joined, selected
from models.features import VITAL_AT
from models.network import RISKS
from models.predictor import Predictor
from models.training.rows import rows_of
from models.window_store import Windows

HOUR_MS: Final = 3_600_000
_BACK_H: Final = 3
"""Hours of repeated values before the moment: the minute scale looks back one."""


def repeated(stay: Stay, last: int, step_ms: int = 1_000) -> Stay:
    """The stay up to one of its messages, vital signs repeated in the hours before it.

    Args:
        stay: With at most one message an hour.
        last: Index of its last message.
        step_ms: From one repetition to the next.
    """
    end = int(stay.times_ms[last])
    keep = stay.row <= last
    when, signal, value = stay.times_ms[stay.row[keep]], stay.signal[keep], stay.value[keep]
    times, signals, values = [when], [signal], [value]
    start = max(int(stay.times_ms[0]), end - _BACK_H * HOUR_MS)
    for vital in VITAL_AT:
        mine = signal == vital
        at, said = when[mine], value[mine]
        for i in range(len(at)):
            until = int(at[i + 1]) if i + 1 < len(at) else end
            # A monitor whose lead is off for an hour does not go on saying the old value.
            until = min(until, int(at[i]) + HOUR_MS, end)
            more = np.arange(max(int(at[i]) + step_ms, start), until, step_ms, dtype=np.int64)
            times.append(more)
            signals.append(np.full(len(more), vital, np.int16))
            values.append(np.full(len(more), said[i], np.float32))
    ts, which, what = np.concatenate(times), np.concatenate(signals), np.concatenate(values)
    order = np.argsort(ts, kind="stable")
    known, row = np.unique(np.r_[ts[order], stay.times_ms[: last + 1]], return_inverse=True)
    return Stay(
        stay.set_name,
        stay.record,
        stay.case,
        known,
        row[: len(order)].astype(np.int32),
        which[order],
        what[order],
    )


def at_last(stay: Stay, bins: int) -> Windows:
    """The window of a stay at its last message."""
    windows = rows_of(stay).windows
    return selected(windows, np.array([len(windows.cases) - 1]), bins)


def compared(
    predictor: Predictor, stays: list[Stay], *, each: int = 3, seed: int = 8
) -> dict[str, Any]:
    """How far apart the risks of the two are.

    Args:
        predictor: The model as it serves.
        stays: Hourly stays.
        each: Moments of each stay.
        seed: Of their choice.
    """
    rng = np.random.default_rng(seed)
    bins = predictor.length_buckets[-1]
    slow: list[Windows] = []
    fast: list[Windows] = []
    for stay in stays:
        places = np.nonzero(stay.times_ms > stay.times_ms[0])[0]
        for last in np.sort(rng.permutation(places)[:each]).tolist():
            keep = stay.row <= last
            if not keep.any():
                continue
            cut = Stay(
                stay.set_name,
                stay.record,
                stay.case,
                stay.times_ms[: last + 1],
                stay.row[keep],
                stay.signal[keep],
                stay.value[keep],
            )
            slow.append(at_last(cut, bins))
            fast.append(at_last(repeated(stay, last), bins))
    if not slow:
        return {"moments": 0}
    one, other = predictor.predict(joined(slow)), predictor.predict(joined(fast))
    both = one.speaks & other.speaks
    apart = np.abs(one.p - other.p)[both]
    odds = np.abs(log_odds(one.p) - log_odds(other.p))[both]
    return {"moments": int(both.sum())} | {
        risk: _spread(apart[:, i], odds[:, i]) for i, risk in enumerate(RISKS)
    }


def _spread(apart: NDArray[np.float64], odds: NDArray[np.float64]) -> dict[str, float]:
    return {
        "median": round(float(np.median(apart)), 5),
        "q95": round(float(np.quantile(apart, 0.95)), 5),
        "most": round(float(apart.max()), 5),
        "median_log_odds": round(float(np.median(odds)), 4),
        "q95_log_odds": round(float(np.quantile(odds, 0.95)), 4),
    }
