"""What boosted trees say of the rows, for the network to learn from.

A network of this size fits the training stays far better than it knows others: labels alone teach
it patients by heart. Trees on the same features generalise better, and what they say of stays that
they have not seen is a smooth target. Each stay is spoken of by trees grown on the other folds;
rows of sets that lack a label by all folds' trees together, so that the network learns what the
risk looks like there as well.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from models.network import RISKS
from models.training.cache import Table
from models.training.metrics import gains

FOLDS: Final = 3
TAUGHT: Final = ("sepsis", "mortality")
_RECIPE: Final = 1
_TREES: Final = {"sepsis": 160, "mortality": 160}
_PARAMETERS: Final = {
    "objective": "binary",
    "learning_rate": 0.07,
    "num_leaves": 31,
    "min_data_in_leaf": 150,
    "lambda_l2": 10.0,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "feature_fraction": 0.25,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


def flat(table: Table) -> NDArray[np.float32]:
    """All features of the rows, float32[n, S * D + V * E + F]."""
    n = len(table.stay)
    parts = (table.signals.reshape(n, -1), table.minutes.reshape(n, -1), table.case)
    return np.concatenate(parts, 1).astype(np.float32)


def targets(table: Table, risk: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What trees of a risk learn and how much a row counts; 0 where nothing is known.

    Sepsis: whether an alarm in that hour gains utility, weighted by how much it gains or costs.
    """
    label = table.labels[:, RISKS.index(risk)]
    if risk != "sepsis":
        return (label == 1).astype(np.float64), (label >= 0).astype(np.float64)
    gain = gains(label, table.hour, table.stay)
    return (gain > 0).astype(np.float64), np.abs(gain)


def grow(
    x: NDArray[np.float32],
    want: NDArray[np.float64],
    weight: NDArray[np.float64],
    risk: str,
    seed: int,
) -> lightgbm.Booster:
    """Trees for one risk."""
    data = lightgbm.Dataset(x, want, weight=weight / weight.mean())
    return lightgbm.train(_PARAMETERS | {"seed": seed}, data, _TREES[risk])


def teach(table: Table, seed: int) -> NDArray[np.float32]:
    """Probabilities of all rows, float32[n, R]; NaN for risks that have no trees."""
    said = np.full((len(table.stay), len(RISKS)), np.nan, np.float32)
    x = flat(table)
    for risk in TAUGHT:
        want, weight = targets(table, risk)
        known = weight > 0
        stays = np.unique(table.stay[known])
        if len(stays) < FOLDS or want[known].min() == want[known].max():
            continue
        fold = np.full(int(table.stay.max()) + 1, -1)
        fold[np.random.default_rng(seed).permutation(stays)] = np.arange(len(stays)) % FOLDS
        mine = fold[table.stay]
        column = said[:, RISKS.index(risk)]
        column[:] = 0.0
        for number in range(FOLDS):
            grown = known & (mine != number)
            trees = grow(x[grown], want[grown], weight[grown], risk, seed + number)
            told = np.nonzero(mine == number)[0]
            column[told] = trees.predict(x[told])
            other = np.nonzero(mine == -1)[0]
            column[other] += np.asarray(trees.predict(x[other])) / FOLDS
    return said


def taught_of(table: Table, seed: int, work: Path) -> NDArray[np.float32]:
    """`teach`, kept in a folder, so that a stopped run goes on."""
    mark = f"{_RECIPE} {_PARAMETERS} {_TREES} {FOLDS} {TAUGHT} {seed} {len(table.stay)}"
    mark += f" {table.labels.sum()}"
    path = work / f"taught-{hashlib.sha256(mark.encode()).hexdigest()[:12]}.npy"
    if path.exists():
        found: NDArray[np.float32] = np.load(path)
        return found
    said = teach(table, seed)
    work.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, said)
    part.replace(path)
    return said
