"""Net benefit over thresholds (Vickers and Elkin 2006): hits, less the false alarms that a hit is
held to be worth at that threshold.

A bedside score says no probability. It gets its best: a logistic regression on the score, grown on
the other patients (two halves).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.calibration import platt
from models.evaluation.bootstrap import Counts, Draws, interval

Floats = NDArray[np.float64]
POINTS: Final = 25


def as_probability(
    score: Floats, label: NDArray[np.bool_], patient: NDArray[np.int64], halves: int = 2
) -> Floats:
    """Probabilities that a score stands for, by patients that are not the row's own."""
    value = np.nan_to_num(score)
    mine = np.random.default_rng(5).permutation(int(patient.max()) + 1)[patient] % halves
    out = np.zeros(len(value))
    for half in range(halves):
        other = mine != half
        slope, intercept = platt(value[other], label[other])
        out[~other] = 1 / (1 + np.exp(-(slope * value[~other] + intercept)))
    return out


def net_benefit(counts: Counts, threshold: Floats) -> Floats:
    """Net benefit per row at each threshold, [T, K + 1]."""
    hit, false = counts.above()
    none = np.zeros((1, hit.shape[1]))
    hit, false = np.concatenate([hit, none]), np.concatenate([false, none])
    at = np.searchsorted(counts.level, threshold)
    odds = (threshold / (1 - threshold))[:, None]
    said: Floats = (hit[at] - false[at] * odds) / counts.both.sum(0)
    return said


def curve(p: Floats, score: Floats, label: NDArray[np.bool_], draws: Draws) -> dict[str, Any]:
    """Net benefit of the model, of a score as probabilities, of treating all; none is 0.

    Args:
        p: The model's probability of each row.
        score: A bedside score of each row.
        label: What happened.
        draws: Of the rows' patients.
    """
    base = float(label.mean())
    threshold = np.geomspace(max(base / 5, 0.002), min(0.6, base * 8), POINTS)
    model = net_benefit(Counts.of(p, label, draws), threshold)
    other = net_benefit(Counts.of(as_probability(score, label, draws.at), label, draws), threshold)
    every = base - (1 - base) * threshold / (1 - threshold)
    ahead = model - other
    low, high = np.quantile(ahead[:, 1:], [0.025, 0.975], axis=1)
    digits = 6
    return {
        "threshold": threshold.round(5).tolist(),
        "model": model[:, 0].round(digits).tolist(),
        "news2": other[:, 0].round(digits).tolist(),
        "all": every.round(digits).tolist(),
        "ahead_of_news2": ahead[:, 0].round(digits).tolist(),
        "ahead_low": low.round(digits).tolist(),
        "ahead_high": high.round(digits).tolist(),
        "thresholds_ahead_of_news2": int((low > 0).sum()),
        "thresholds_ahead_of_all_and_none": int(
            (model[:, 0] > np.maximum(every, 0.0) + 1e-12).sum()
        ),
        "mean_ahead": interval(ahead.mean(0), digits),
    }
