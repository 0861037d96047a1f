"""What network and trees say together: blend, calibration and thresholds, from rows unseen by both.

Axes: n rows, R risks.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.calibration import Calibration
from models.network import RISKS
from models.training import metrics
from models.training.cache import SETS, Table
from models.training.evaluate import last_rows
from models.training.forest import targets

Floats = NDArray[np.float64]
_P12: Final = SETS.index("physionet2012")
_SETTLED_FROM: Final = 24
"""Hour from which mortality is calibrated: it is asked for, and judged, when a day has passed."""
_LEAST: Final = 10
"""Events, and rows without one, below which a risk is left as it is."""


def weights_of(network: Floats, trees: Floats, want: Floats, weight: Floats) -> tuple[float, float]:
    """Weights of both log-odds [n] that sum to 1, by weighted logistic regression.

    A member that would count against what it says is left out.
    """
    x = np.stack([network, trees, np.ones_like(network)], 1)
    w = np.array([0.5, 0.5, 0.0])
    scaled = weight / weight.sum()
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        curve = (x * (scaled * p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(3)
        step = np.linalg.solve(curve, x.T @ (scaled * (want - p)))
        w += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-8:
            break
    both = np.maximum(w[:2], 0.0)
    if both.sum() <= 0:
        return 0.0, 1.0
    both /= both.sum()
    return float(both[0]), float(both[1])


def settle(
    calibration: Calibration, table: Table, network: Floats, trees: Floats, seed: int
) -> None:
    """Set blend, slope, intercept, bounds and thresholds of every risk that its rows know.

    Args:
        calibration: Is changed.
        table: Rows on whose patients neither member was trained.
        network: Its logits, [n, R].
        trees: Theirs, [n, R]; all 0 for a risk without trees.
        seed: Of the patients drawn for the bounds.
    """
    for risk, name in enumerate(RISKS):
        label = table.labels[:, risk]
        known = label >= 0
        if not _enough(label[known]):
            continue
        late = known & (table.hour >= _SETTLED_FROM)
        if name == "mortality" and _enough(label[late]):
            known = late
        happened = label[known] == 1
        want, weight = targets(table, name)
        if trees[:, risk].any():
            use = weight > 0
            blend = weights_of(network[use, risk], trees[use, risk], want[use], weight[use])
            calibration.blend[risk] = torch.tensor(blend, dtype=torch.float64)
        both = calibration.blend[risk].numpy()
        logit = both[0] * network[:, risk] + both[1] * trees[:, risk]
        calibration.fit(risk, logit[known], happened, table.stay[known], seed)
        bent = calibration.curve(risk, logit)
        if name != "sepsis":
            # Sepsis is calibrated in each of them as it is, and its alarm loses utility by leaning.
            calibration.fit_subgroups(
                risk, bent[known], happened, table.stay[known], table.case[known]
            )
        p = 1 / (1 + np.exp(-calibration.lean(risk, bent, table.case)))
        if name == "sepsis":
            gain = metrics.gains(label, table.hour, table.stay)
            limit = metrics.best_threshold(p[known], gain[known])
        elif name == "mortality":
            last = last_rows(table, (label >= 0) & (table.source == _P12))
            limit = metrics.event1_threshold(p[last], label[last] == 1)
        else:
            limit = metrics.event1_threshold(p[known], happened)
        calibration.threshold[risk] = float(np.clip(limit, 1e-4, 1 - 1e-4))


def _enough(label: NDArray[np.int8]) -> bool:
    """Whether rows, all of them known, have events and rows without one."""
    events = int((label == 1).sum())
    return _LEAST <= events <= len(label) - _LEAST


def said(
    calibration: Calibration, network: Floats, trees: Floats, case: NDArray[np.floating[Any]]
) -> Floats:
    """Calibrated probabilities, [n, R], of logits [n, R] of cases [n, F]."""
    given = (torch.from_numpy(x) for x in (network, trees, case))
    p: Floats = torch.sigmoid(calibration.log_odds(*given)).numpy()
    return p
