"""Whether what is said comes true: reliability by bins, and whether the bounds hold.

Coverage is measured on groups of held-out patients: patients are dealt at random into groups, the
rows of a group are cut into bins of the predicted risk, and a cell (group and bin) is covered where
its observed rate lies between the means of `low` and `high`. The rate of a cell has sampling noise
of its own, which the bounds do not promise to hold; the share is therefore given beside what a
perfect calibration would reach, found by drawing outcomes from `p` itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval

Floats = NDArray[np.float64]
BINS: Final = 10
LEAST_ROWS: Final = 30
"""Of a cell whose rate is looked at."""


def reliability(p: Floats, label: NDArray[np.bool_], draws: Draws) -> dict[str, list[Any]]:
    """Said and observed by bins of equal numbers of rows, the observed with its interval."""
    edges = np.unique(np.quantile(p, np.linspace(0, 1, BINS + 1)[1:-1]))
    at = np.searchsorted(edges, p, side="right")
    said: dict[str, list[Any]] = {"said": [], "observed": [], "low": [], "high": [], "rows": []}
    for j in range(len(edges) + 1):
        mine = (at == j).astype(np.float64)
        if not mine.any():
            continue
        rows = draws.sums(mine)
        observed = interval(draws.sums(mine * label) / np.maximum(rows, 1), 5)
        said["said"].append(round(float(p[at == j].mean()), 5))
        said["observed"].append(observed["value"])
        said["low"].append(observed["low"])
        said["high"].append(observed["high"])
        said["rows"].append(int(mine.sum()))
    return said


def calibration(counts: Counts) -> dict[str, Any]:
    """Slope and intercept with intervals, and the Brier score beside that of the base rate."""
    return {
        "slope": interval(measures.slope(counts)),
        "intercept": interval(measures.intercept(counts)),
        "brier": interval(measures.brier(counts), 5),
        "brier_skill": interval(measures.skill(counts)),
    }


def coverage(
    p: Floats,
    low: Floats,
    high: Floats,
    label: NDArray[np.bool_],
    patient: NDArray[np.int64],
    *,
    groups: int = 1,
    bins: int = 20,
    seed: int = 3,
) -> dict[str, Any]:
    """Share of cells whose observed rate lies within the bounds; see the module's text.

    Args:
        p: Probability of each row; low and high its bounds.
        label: What happened.
        patient: Of each row.
        groups: Into how many patients are dealt.
        bins: Of the risk.
        seed: Of the dealing.
    """
    rng = np.random.default_rng(seed)
    _, at = np.unique(patient, return_inverse=True)
    group = rng.integers(0, groups, int(at.max()) + 1)[at]
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    cell = group * (len(edges) + 1) + np.searchsorted(edges, p, side="right")
    count = np.bincount(cell)
    use = count >= LEAST_ROWS
    if not use.any():
        return {"cells": 0, "inside": None, "inside_if_perfect_and_hours_independent": None}

    def mean(value: Floats) -> Floats:
        out: Floats = np.bincount(cell, value, len(count))[use] / count[use]
        return out

    bounds = mean(low), mean(high)

    def inside(rate: Floats) -> float:
        return float(((rate >= bounds[0]) & (rate <= bounds[1])).mean())

    expected = [inside(mean((rng.random(len(p)) < p).astype(np.float64))) for _ in range(5)]
    return {
        "cells": int(use.sum()),
        "inside": round(inside(mean(label.astype(np.float64))), 4),
        "inside_if_perfect_and_hours_independent": round(float(np.mean(expected)), 4),
        "mean_width": round(float((high - low).mean()), 5),
    }
