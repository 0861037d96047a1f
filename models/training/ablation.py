"""The mixture taken apart out of fold, and a dense network trained beside it on the same rows.

The networks of the cross-validation are read from where it left them; where it did not run they are
trained. The dense ones are trained here: same rows, plan, teacher and number of parameters.

Axes: n rows, R risks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.evaluation.ablation import ALONE, DENSE, Apart, named
from models.features import Features
from models.network import RISKS
from models.training import blend
from models.training.cache import SETS, Table
from models.training.cross import Crossing
from models.training.fit import Plan, fit, logits_of
from models.training.forest import SHIPPED
from models.training.sample import hours

Floats = NDArray[np.float64]


def out_of_fold(
    table: Table, features: Features, plan: Plan, work: Path, folds: Sequence[int] | None = None
) -> dict[str, NDArray[Any]]:
    """What the mixture, its parts and a dense network say of patients that they have not seen.

    Args:
        table: All hours, without outcomes that must not train.
        features: With their typical values.
        plan: Of the networks.
        work: Folder of the cross-validation's states.
        folds: Which of them; default: all.

    Returns:
        `set`, `stay`, `hour` and `label` of the rows; `p` [n, R] of blend and mixture, `positive`
        by thresholds chosen on other patients, and `p_NAME` of all else by its name
        (`models.evaluation.ablation.named`).
    """
    crossing = Crossing(table, features, plan, work)
    drawn = hours(table, plan.seed)[0]
    chosen = list(range(crossing.folds)) if folds is None else list(folds)
    at = np.nonzero(np.isin(table.fold, chosen))[0]
    place = np.full(len(table.stay), -1)
    place[at] = np.arange(len(at))
    trees = np.zeros((len(at), len(RISKS)))
    logits: dict[str, Floats] = {}
    for fold in chosen:
        mine = np.nonzero(table.fold == fold)[0]
        for risk in SHIPPED:
            trees[place[mine], RISKS.index(risk)] = crossing.forest(risk, fold)[0]
        rows, teacher = table.select(drawn[table.fold[drawn] != fold]), crossing.taught(fold)
        there = table.select(mine)
        mixture = fit(rows, features, plan, work, teacher)
        said = Apart.of(mixture, there.signals, there.minutes, there.case).said()
        said[DENSE] = logits_of(fit(rows, features, plan, work, teacher, dense=True), there)[0]
        for name, value in said.items():
            logits.setdefault(name, np.zeros_like(trees))[place[mine]] = value
    less = replace(table, signals=table.signals[:, :0], minutes=table.minutes[:, :0]).select(at)
    return _calibrated(less, logits, trees, plan.seed)


def _calibrated(
    table: Table, logits: dict[str, Floats], trees: Floats, seed: int
) -> dict[str, NDArray[Any]]:
    """Blended and calibrated for each half of the patients by the other half.

    What is made of the mixture is blended as the mixture is; the dense network on its own.
    """
    stays = np.unique(table.stay)
    half = np.random.default_rng(seed).permutation(len(stays)) % 2
    mine = half[np.searchsorted(stays, table.stay)]
    out: dict[str, NDArray[Any]] = {
        "set": np.array(SETS)[table.source],
        "stay": table.record,
        "hour": table.hour,
        "label": table.labels,
        "positive": np.zeros(trees.shape, np.bool_),
    }
    for member, of_trees in (("", trees), (ALONE, np.zeros_like(trees))):
        for name in logits:
            out["_".join(x for x in ("p", named(member, name)) if x)] = np.full(trees.shape, np.nan)
        for which in (0, 1):
            here, rest = mine == which, mine != which
            other = table.select(rest)
            settled = {}
            for name in ("", DENSE):
                settled[name] = Calibration(len(RISKS))
                blend.settle(settled[name], other, logits[name][rest], of_trees[rest], seed)
            for name, value in logits.items():
                calibration = settled[DENSE if name == DENSE else ""]
                p = blend.said(calibration, value[here], of_trees[here], table.case[here])
                out["_".join(x for x in ("p", named(member, name)) if x)][here] = p
                if not member and not name:
                    out["positive"][here] = p >= calibration.threshold.numpy()
    return out
