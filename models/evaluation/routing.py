"""Whether the gate means something: shares against charted diagnoses and units, load, and rest.

Axes: k rows, N experts.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from models.data import Stay
from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval
from models.evaluation.cohort import Cohort
from models.evaluation.faithfulness import neighbours
from models.evaluation.tasks import EARLY_H, last_of_each
from models.evaluation.told import Told
from models.moe import EXPERTS
from models.predictor import Predictor
from models.training.cache import SETS

Floats = NDArray[np.float64]
UNITS: Final = ("medical", "surgical", "coronary", "cardiac_surgery")
"""Of PhysioNet 2012."""
_CHARTED: Final = "eicu-demo"
_LEAST: Final = 5


def routed(cohort: Cohort, told: Told, predictor: Predictor, stays: list[Stay]) -> dict[str, Any]:
    """All figures of the gate.

    Args:
        cohort: All rows.
        told: What the weights say of some patients, with shares.
        predictor: The weights as they serve.
        stays: With messages minutes apart.
    """
    at = last_of_each(cohort.stay[told.row], np.arange(len(told.row)))
    return {
        "load": load(cohort, told, at),
        "charted_diagnosis": charted(cohort, told),
        "units_physionet2012": units(cohort, told, at),
        "leading_expert": {
            "neighbouring_hours": hours(cohort, told),
            "neighbouring_minutes": minutes(predictor, stays),
        },
    }


def load(cohort: Cohort, told: Told, at: NDArray[np.int64]) -> dict[str, Any]:
    """Mean share of each expert at the last row of each stay: of all stays, and of each set."""
    source = cohort.source[cohort.stay[told.row[at]]]
    said = {"all": _shares(told.share[at].mean(0))}
    for i in np.unique(source).tolist():
        said[SETS[i]] = _shares(told.share[at[source == i]].mean(0))
    return said | {"least": round(float(told.share[at].mean(0).min()), 4)}


def _shares(share: Floats) -> dict[str, float]:
    return dict(zip(EXPERTS, share.round(4).tolist(), strict=True))


def charted(cohort: Cohort, told: Told) -> dict[str, Any]:
    """AUROC of a specialist's share against charted diagnoses: at 24 hours and at the end.

    On hospitals that trained nothing, where the rows are of the test part.
    """
    stay = cohort.stay[told.row]
    known = cohort.from_set(_CHARTED)[told.row] & (cohort.expert[stay] >= 0)
    said: dict[str, Any] = {}
    for bit, name in ((1, "oncology"), (2, "cardiology")):
        for word, use in (("at_24_h", cohort.hour[told.row] < EARLY_H), ("at_the_end", None)):
            row = np.nonzero(known if use is None else known & use)[0]
            at = last_of_each(stay, row)
            label = (cohort.expert[stay[at]] & bit) > 0
            if not 0 < label.sum() < len(label):
                continue
            counts = Counts.of(
                told.share[at, EXPERTS.index(name)], label, Draws(np.arange(len(at)))
            )
            entry = said.setdefault(name, {"stays": len(at), "charted": int(label.sum())})
            entry[word] = interval(measures.auroc(counts))
    return said


def units(cohort: Cohort, told: Told, at: NDArray[np.int64]) -> dict[str, Any]:
    """Mean shares in each of 2012's units, and how well shares alone tell two of them apart.

    Each half of the stays is told apart by a logistic regression on log shares of the other half.
    """
    stay = cohort.stay[told.row[at]]
    share = np.log(np.maximum(told.share[at], 1e-6))
    mine = {
        unit: np.nonzero((cohort.source[stay] == SETS.index("physionet2012"))
                         & (cohort.unit[stay] == unit))[0]
        for unit in UNITS
    }  # fmt: skip
    mine = {unit: rows for unit, rows in mine.items() if len(rows) >= _LEAST}
    said: dict[str, Any] = {
        "mean_share": {unit: _shares(told.share[at[rows]].mean(0)) for unit, rows in mine.items()},
        "told_apart_auroc": {},
    }
    for one, other in combinations(mine, 2):
        rows = np.r_[mine[one], mine[other]]
        label = np.r_[np.ones(len(mine[one]), np.bool_), np.zeros(len(mine[other]), np.bool_)]
        half, score = np.arange(len(rows)) % 2, np.zeros(len(rows))
        for which in (0, 1):
            fitted = LogisticRegression(max_iter=1000).fit(
                share[rows[half != which]], label[half != which]
            )
            score[half == which] = fitted.decision_function(share[rows[half == which]])
        auroc = measures.auroc(Counts.of(score, label, Draws(np.arange(len(rows)))))
        said["told_apart_auroc"][f"{one}_and_{other}"] = interval(auroc)
    return said


def hours(cohort: Cohort, told: Told) -> dict[str, Any]:
    """How often the leading expert is the same an hour later, and changes of it a patient-day."""
    stay, leader = cohort.stay[told.row], told.share.argmax(1)
    pair = np.nonzero((np.diff(stay) == 0) & (np.diff(cohort.hour[told.row]) == 1))[0]
    return _kept(leader, pair, stay[pair]) | {
        "changes_a_day": round(24.0 * float((leader[pair] != leader[pair + 1]).mean()), 3)
        if len(pair)
        else None
    }


def minutes(
    predictor: Predictor, stays: list[Stay], *, each: int = 4, seed: int = 2
) -> dict[str, Any]:
    """How often the leading expert is the same at the next message, at most 5 minutes later."""
    windows, owner = neighbours(predictor, stays, each, seed)
    if windows is None:
        return {"pairs": 0}
    share = predictor.predict(windows).share
    moved = np.abs(share[1::2] - share[::2]).max(1)
    return _kept(share.argmax(1), np.arange(0, len(share), 2), owner) | {
        "median_change_of_share": round(float(np.median(moved)), 4),
        "q99_change_of_share": round(float(np.quantile(moved, 0.99)), 4),
    }


def _kept(
    leader: NDArray[np.int64], pair: NDArray[np.int64], owner: NDArray[np.int64]
) -> dict[str, Any]:
    if not len(pair):
        return {"pairs": 0}
    draws = Draws(owner)
    same = draws.sums(leader[pair] == leader[pair + 1]) / draws.sums(np.ones(len(pair)))
    return {"pairs": len(pair), "the_same": interval(same)}
