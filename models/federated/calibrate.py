"""Calibration, thresholds and bounds of what hospitals have counted."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from models.calibration import Calibration
from models.federated.bins import BINS, CENTRE, FINE_BINS, Curves, Floats, Spread

_LEAST_WIDTH: Final = 0.05
_Z: Final = 1.645


def apply(calibration: Calibration, curves: Curves, spread: Spread, *, sepsis: int) -> list[int]:
    """Set slope, intercept, threshold and bounds; returns the risks that came true often enough."""
    done = []
    for risk in range(curves.risks):
        found = curves.platt(risk)
        if found is None:
            continue
        slope, intercept = found
        calibration.slope[risk], calibration.intercept[risk] = slope, intercept
        limit = slope * curves.limit(risk, by_gain=risk == sepsis) + intercept
        calibration.threshold[risk] = float(np.clip(1 / (1 + np.exp(-limit)), 1e-4, 1 - 1e-4))
        done.append(risk)
        knots, width = _bounds(curves, spread, risk, slope, intercept)
        if (np.diff(knots) > 0).all():
            calibration.plain[risk] = calibration.knots[risk] = torch.from_numpy(knots)
            calibration.width[risk] = torch.from_numpy(width)
    return done


def _bounds(
    curves: Curves, spread: Spread, risk: int, slope: float, intercept: float
) -> tuple[Floats, Floats]:
    """Mean log-odds of each bin and half-width there: 1.645 standard errors of the log-odds.

    The variance of a bin's rate r when patients are drawn anew is the sum over stays of
    (h - r c)^2 over the square of the rows (the ratio estimator, Cochran 1977, section 6.5).
    """
    rows, hits = curves.rows(risk)
    starts = [0, *spread.edges[risk]]
    if len(set(starts)) != len(starts) or starts[-1] >= FINE_BINS:
        return np.zeros(BINS), np.zeros(BINS)
    n, h, x = (np.add.reduceat(v, starts) for v in (rows, hits, rows * CENTRE))
    hh, hc, cc = spread.of_risk(risk)
    rate = (h + 0.5) / (n + 1.0)
    variance = np.maximum(hh - 2 * rate * hc + rate**2 * cc, 0.0) / np.maximum(n, 1.0) ** 2
    half = _Z * np.sqrt(variance) / (rate * (1 - rate))
    return slope * x / np.maximum(n, 1.0) + intercept, np.maximum(half, _LEAST_WIDTH)
