"""What simpler means reach on the very rows that the network is measured on.

Boosted trees on the same features, trained on the same rows; NEWS2 and qSOFA; the last value alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.features import SIGNAL_FEATURES, Features
from models.network import RISKS
from models.scores import SCORES
from models.scores import score as score_of
from models.signals import INDEX
from models.training import metrics
from models.training.cache import SETS, Table
from models.training.evaluate import DECISION_HOUR, by_stay, last_rows
from models.training.teacher import flat, grow, targets

_P12, _EICU = SETS.index("physionet2012"), SETS.index("eicu-demo")
_MORTALITY, _SEPSIS = RISKS.index("mortality"), RISKS.index("sepsis")
Floats = NDArray[np.float64]


def compare(
    train: Table, calibrate: Table, test: Table, features: Features, seed: int
) -> dict[str, Any]:
    """The card's `compared`: everything is chosen as for the network, and measured on `test`."""
    said: dict[str, Any] = {}
    if not len(test.stay) or not len(calibrate.stay):
        return said
    newest = values_of(test, features)
    points, _ = score_of(newest, np.ones(len(newest), np.int64))
    rank = {name: np.nan_to_num(points[:, SCORES.index(name)]) for name in ("news2", "qsofa")}
    known = test.labels[:, _SEPSIS] >= 0
    for name, column in rank.items():
        said[name] = _mortality(test, column) | _rows(test, column, known, "sepsis")
    for risk, name in (("hypotension", "map"), ("hypoxaemia", "spo2")):
        there = (test.labels[:, RISKS.index(risk)] >= 0) & ~np.isnan(newest[:, INDEX[name]])
        last = -np.nan_to_num(newest[:, INDEX[name]]).astype(np.float64)
        said.setdefault("last_value", {}).update(_rows(test, last, there, risk))
    said["trees"] = _trees(train, calibrate, test, seed)
    return said


def values_of(table: Table, features: Features) -> NDArray[np.float32]:
    """Newest values, float32[n, S], NaN where none: the features undone, to what is charted."""
    z = table.signals[:, :, SIGNAL_FEATURES.index("newest")].astype(np.float32)
    x = torch.from_numpy(z) * features.spread_S + features.centre_S
    # Half precision loses the last digits: charts have one decimal, fractions of oxygen two.
    x = torch.where(features.skewed_S, x * features.typical_S / (1.0 - x).clamp(min=1e-3), x)
    out: NDArray[np.float32] = np.round(x.numpy(), 1)
    out[:, INDEX["fio2"]] = np.round(x.numpy()[:, INDEX["fio2"]], 2)
    out[table.signals[:, :, SIGNAL_FEATURES.index("missing")] > 0] = np.nan
    return out


def _rows(
    table: Table, column: Floats, known: NDArray[np.bool_], risk: str
) -> dict[str, dict[str, float | int]]:
    label = table.labels[known, RISKS.index(risk)] == 1
    return {risk: metrics.ranking(column[known], label)} if known.any() else {}


def _mortality(table: Table, column: Floats) -> dict[str, dict[str, float | int]]:
    said = {}
    for name, source, hours in (
        ("mortality_48h_physionet2012", _P12, DECISION_HOUR + 1),
        ("mortality_24h_eicu", _EICU, 24),
    ):
        known = (table.labels[:, _MORTALITY] >= 0) & (table.source == source)
        known &= table.hour < hours
        if known.any():
            at = last_rows(table, known)
            said[name] = metrics.ranking(column[at], table.labels[at, _MORTALITY] == 1)
    return said


def _trees(train: Table, calibrate: Table, test: Table, seed: int) -> dict[str, Any]:
    said: dict[str, Any] = {}
    x = flat(train)
    for risk in ("sepsis", "mortality"):
        want, weight = targets(train, risk)
        use = weight > 0
        if not 0 < want[use].sum() < use.sum():
            continue
        trees = grow(x[use], want[use], weight[use], risk, seed)
        p, q = (np.asarray(trees.predict(flat(t)), np.float64) for t in (calibrate, test))
        if risk == "mortality":
            said |= _mortality(test, q)
            at = last_rows(calibrate, (calibrate.labels[:, _MORTALITY] >= 0))
            here = last_rows(test, (test.labels[:, _MORTALITY] >= 0) & (test.source == _P12))
            if len(at) and len(here):
                limit = metrics.event1_threshold(p[at], calibrate.labels[at, _MORTALITY] == 1)
                label = test.labels[here, _MORTALITY] == 1
                said["mortality_48h_physionet2012"]["event1"] = metrics.event1(
                    q[here], label, limit
                )
            continue
        known = calibrate.labels[:, _SEPSIS] >= 0
        gain = metrics.gains(calibrate.labels[:, _SEPSIS], calibrate.hour, calibrate.stay)
        limit = metrics.best_threshold(p[known], gain[known])
        known = test.labels[:, _SEPSIS] >= 0
        said |= _rows(test, q, known, "sepsis")
        stays = [(test.labels[r, _SEPSIS], q[r] >= limit) for r in by_stay(test, known)]
        said["sepsis_utility"] = metrics.utility(stays)
    return said
