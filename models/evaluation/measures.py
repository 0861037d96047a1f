"""Discrimination and calibration of counts, for all draws at once.

Each takes `bootstrap.Counts` and returns float64[K + 1], column 0 the patients as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Counts

Floats = NDArray[np.float64]


def auroc(counts: Counts) -> Floats:
    """Area under the receiver operating characteristic; a tie counts half."""
    positive, negative = counts.positive, counts.negative
    below = np.cumsum(negative, 0) - negative
    won = (positive * (below + 0.5 * negative)).sum(0)
    return _over(won, positive.sum(0) * negative.sum(0))


def auprc(counts: Counts) -> Floats:
    """Average precision: of each level's precision, by the recall it adds."""
    hit, false = counts.above()
    precision = _over(hit, hit + false, 0.0)
    return _over((precision * counts.positive).sum(0), counts.positive.sum(0))


def brier(counts: Counts) -> Floats:
    """Mean squared error of what is said as a probability."""
    level = counts.level[:, None]
    wrong = counts.positive * (1 - level) ** 2 + counts.negative * level**2
    return _over(wrong.sum(0), counts.both.sum(0))


def skill(counts: Counts) -> Floats:
    """Share of the base rate's Brier score that is saved."""
    base = rate(counts)
    return 1.0 - _over(brier(counts), base * (1.0 - base))


def slope(counts: Counts) -> Floats:
    """Calibration slope: of the logistic regression of what happened on the log-odds said."""
    return _logistic(counts, free=True)[0]


def intercept(counts: Counts) -> Floats:
    """Calibration in the large: the regression's intercept with the slope held at 1."""
    return _logistic(counts, free=False)[1]


def rate(counts: Counts) -> Floats:
    """Share of positives."""
    return _over(counts.positive.sum(0), counts.both.sum(0))


def alarm(counts: Counts, threshold: float) -> dict[str, Floats]:
    """Share of rows at or above a threshold, their positive predictive value, and sensitivity."""
    above = counts.level >= threshold
    hit, false = counts.positive[above].sum(0), counts.negative[above].sum(0)
    return {
        "alarm_rate": _over(hit + false, counts.both.sum(0)),
        "ppv": _over(hit, hit + false),
        "sensitivity": _over(hit, counts.positive.sum(0)),
    }


def _logistic(counts: Counts, *, free: bool) -> tuple[Floats, Floats]:
    """Newton's steps for all draws together, on bins."""
    level = np.clip(counts.level, 1e-6, 1 - 1e-6)
    x = np.log(level / (1 - level))[:, None]
    size, hits = counts.both, counts.positive
    a, b = np.ones(size.shape[1]), np.zeros(size.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x * a + b, -30, 30)))
        miss, weight = hits - size * p, size * p * (1 - p)
        g0, h00 = miss.sum(0), weight.sum(0) + 1e-9
        if free:
            g1, h01, h11 = (miss * x).sum(0), (weight * x).sum(0), (weight * x * x).sum(0) + 1e-9
            det = np.maximum(h11 * h00 - h01 * h01, 1e-12)
            step_a, step_b = (g1 * h00 - g0 * h01) / det, (g0 * h11 - g1 * h01) / det
        else:
            step_a, step_b = np.zeros_like(a), g0 / h00
        a, b = a + np.clip(step_a, -1, 1), b + np.clip(step_b, -1, 1)
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-7:
            break
    known = (hits.sum(0) > 0) & (hits.sum(0) < size.sum(0))
    return np.where(known, a, np.nan), np.where(known, b, np.nan)


def _over(above: Floats, below: Floats, otherwise: float = np.nan) -> Floats:
    out: Floats = np.full_like(above, otherwise, dtype=np.float64)
    return np.divide(above, below, out=out, where=below > 0)
