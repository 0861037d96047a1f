"""Whether the drivers named are what moves the risk.

A signal is deleted from a window as if it had never been measured, and the window goes through the
whole model again: what that changes is compared with the effect said, and with deleting another
signal that is there, at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data import Stay
from models.evaluation.bootstrap import Draws, interval
from models.evaluation.told import Told, joined, selected
from models.features import VITAL_AT
from models.predictor import Predictor
from models.training.rows import rows_of
from models.window_store import Windows

Floats = NDArray[np.float64]


def log_odds(p: Floats) -> Floats:
    """Of probabilities."""
    clipped = np.clip(p, 1e-12, 1 - 1e-12)
    said: Floats = np.log(clipped / (1 - clipped))
    return said


def leading(p: Floats, threshold: Floats) -> NDArray[np.int64]:
    """The risk highest above its threshold in log-odds, which the drivers speak of, [n]."""
    said: NDArray[np.int64] = (log_odds(p) - log_odds(threshold)).argmax(1)
    return said


def without(windows: Windows, signal: NDArray[np.int64]) -> Windows:
    """Windows of which each lacks one signal, as if never measured."""
    hours, minutes = windows.hours.copy(), windows.minutes.copy()
    value, age = windows.newest_value.copy(), windows.newest_age_ms.copy()
    row = np.arange(len(signal))
    hours[row, :, signal] = np.nan
    value[row, signal], age[row, signal] = np.nan, -1
    for column, at in enumerate(VITAL_AT):
        minutes[signal == at, :, column] = np.nan
    return Windows(
        hours=hours,
        minutes=minutes,
        newest_value=value,
        newest_age_ms=age,
        newest_ms=windows.newest_ms,
        phase_ms=windows.phase_ms,
        length=windows.length,
        cases=windows.cases,
    )


def sampled(
    stays: list[Stay], each: int, bins: int, seed: int
) -> tuple[Windows, NDArray[np.int64]]:
    """Some windows of each stay, and which stay each is of."""
    rng = np.random.default_rng(seed)
    parts, owner = [], []
    for number, stay in enumerate(stays):
        windows = rows_of(stay).windows
        count = len(windows.cases)
        keep = np.sort(rng.permutation(count)[:each])
        parts.append(selected(windows, keep, bins))
        owner.append(np.full(len(keep), number))
    return joined(parts), np.concatenate(owner)


def deletion(
    predictor: Predictor, threshold: Floats, stays: list[Stay], *, each: int = 5, seed: int = 1
) -> dict[str, Any]:
    """The deletion test; see the module's text.

    Args:
        predictor: The model as it serves.
        threshold: Of the risks.
        stays: Whose windows to use.
        each: Windows of a stay.
        seed: Of their choice.
    """
    windows, owner = sampled(stays, each, predictor.length_buckets[-1], seed)
    before = predictor.predict(windows)
    there = windows.newest_age_ms >= 0
    signal = before.driver_signal[:, 0].astype(np.int64)
    use = np.nonzero(before.speaks & (signal >= 0) & (there.sum(1) >= 2))[0]
    windows = selected(windows, use, windows.hours.shape[1])
    p, signal, there, owner = before.p[use], signal[use], there[use], owner[use]
    risk, row = leading(p, threshold), np.arange(len(use))
    said = before.driver_effect[use, 0]
    rng = np.random.default_rng(seed)
    chance = np.where(there, rng.random(there.shape), -1.0)
    chance[row, signal] = -1.0
    moved = [
        log_odds(p)[row, risk] - log_odds(predictor.predict(without(windows, which)).p)[row, risk]
        for which in (signal, chance.argmax(1))
    ]
    draws = Draws(owner)
    size = draws.sums(np.ones(len(use)))

    def mean(value: NDArray[Any]) -> dict[str, float | None]:
        return interval(draws.sums(value) / size)

    named, other = np.abs(moved[0]), np.abs(moved[1])
    return {
        "windows": len(use),
        "patients": draws.patients,
        "moves_as_said": mean(np.sign(moved[0]) == np.sign(said)),
        "correlation_said_and_moved": round(float(np.corrcoef(said, moved[0])[0, 1]), 4),
        "mean_absolute_error_of_said": mean(np.abs(said - moved[0])),
        "named_moves_log_odds": mean(named),
        "random_moves_log_odds": mean(other),
        "named_more_than_random": mean(named - other),
        "share_named_more_than_random": mean(named > other),
    }


def stability(
    told: Told, stay: NDArray[np.int64], hour: NDArray[np.int64], threshold: Floats
) -> dict[str, Any]:
    """How far drivers agree between neighbouring hours of a stay with the same leading risk.

    Args:
        told: What was said of rows.
        stay: Of each; hour the same.
        threshold: Of the risks.
    """
    risk = leading(told.p, threshold)
    next_hour = (np.diff(stay) == 0) & (np.diff(hour) == 1) & (np.diff(risk) == 0)
    at = np.nonzero(next_hour)[0]
    return agreement(told.driver_signal, told.driver_effect, at, at + 1, stay)


def agreement(
    signal: NDArray[np.int16],
    effect: Floats,
    one: NDArray[np.int64],
    other: NDArray[np.int64],
    patient: NDArray[np.int64],
) -> dict[str, Any]:
    """Agreement of the first three drivers of pairs of rows."""
    keep = (signal[one, 0] >= 0) & (signal[other, 0] >= 0)
    one, other = one[keep], other[keep]
    if not len(one):
        return {"pairs": 0}
    a, b = signal[one, :3], signal[other, :3]
    shared = (a[:, :, None] == b[:, None, :]) & (a >= 0)[:, :, None]
    common = shared.sum((1, 2))
    either = (a >= 0).sum(1) + (b >= 0).sum(1) - common
    same = np.sign(effect[one, :3])[:, :, None] == np.sign(effect[other, :3])[:, None, :]
    draws = Draws(patient[one])
    size = draws.sums(np.ones(len(one)))
    return {
        "pairs": len(one),
        "first_driver_the_same": interval(draws.sums(a[:, 0] == b[:, 0]) / size),
        "first_three_in_common": interval(draws.sums(common / either) / size),
        "same_direction": interval(
            draws.sums((shared & same).sum((1, 2))) / np.maximum(draws.sums(common), 1)
        ),
    }


def minutes_apart(
    predictor: Predictor, threshold: Floats, stays: list[Stay], *, each: int = 4, seed: int = 2
) -> dict[str, Any]:
    """Agreement between a message and the next of the same stay, at most 5 minutes later."""
    windows, owner = neighbours(predictor, stays, each, seed)
    if windows is None:
        return {"pairs": 0}
    said = predictor.predict(windows)
    risk = leading(said.p, threshold)
    one = np.arange(0, len(risk), 2)
    keep = risk[one] == risk[one + 1]
    moved = np.abs(log_odds(said.p[one]) - log_odds(said.p[one + 1]))
    found = agreement(
        said.driver_signal,
        said.driver_effect,
        one[keep],
        one[keep] + 1,
        np.repeat(owner, 2),
    )
    return found | {"median_change_of_log_odds": round(float(np.median(moved)), 4)}


def neighbours(
    predictor: Predictor, stays: list[Stay], each: int, seed: int
) -> tuple[Windows | None, NDArray[np.int64]]:
    """Windows at a message and at the next at most 5 minutes later, in turn; each pair's stay.

    None where no stay has such messages.
    """
    rng = np.random.default_rng(seed)
    pairs: list[Windows] = []
    owner = []
    for number, stay in enumerate(stays):
        gap = np.diff(stay.times_ms)
        places = rng.permutation(np.nonzero((gap > 0) & (gap <= 300_000))[0])[:each]
        for i in places.tolist():
            pairs += [_until(stay, i, predictor), _until(stay, i + 1, predictor)]
            owner += [number]
    return joined(pairs) if pairs else None, np.array(owner, np.int64)


def _until(stay: Stay, last: int, predictor: Predictor) -> Windows:
    """The window of a stay at one of its messages."""
    keep = stay.row <= last
    cut = Stay(
        stay.set_name,
        stay.record,
        stay.case,
        stay.times_ms[: last + 1],
        stay.row[keep],
        stay.signal[keep],
        stay.value[keep],
    )
    windows = rows_of(cut).windows
    return selected(windows, np.array([len(windows.cases) - 1]), predictor.length_buckets[-1])
