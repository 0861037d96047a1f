"""What trees of either hospital's own are worth for sepsis, beside those of all patients.

    python load_tests/hospital_trees.py --data DATA --out OUT --folds 0,3

For each fold the shipped members grow on the other folds, and two more on either hospital of 2019
alone, which count as far as a row is like that hospital's (`models.trees`). Told of the folds, in
all and for each hospital: official utility at the best threshold there, AUROC, and the log loss of
whether an alarm gains, weighted by how much, of a line through the log-odds. OUT keeps rows and
trees; that of a `vitalstream train` has most of them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.features import Features
from models.network import RISKS
from models.training import metrics
from models.training.cache import SETS, Table, build
from models.training.evaluate import by_stay, without_outcome
from models.training.forest import SHIPPED, Forester, Grown, Recipe, targets
from models.trees import likeness

OWN = Recipe(trees=300, rate=0.03, leaves=15, least=300, per_stay=16, label=True, hospitals=True)
"""A hospital's own trees."""
Floats = NDArray[np.float64]
SEPSIS = RISKS.index("sepsis")


def told(table: Table, work: Path, seed: int, folds: list[int], threads: int) -> dict[str, Floats]:
    """Log-odds of the folds' rows by what counts, float64[n]; 0 elsewhere."""
    forester = Forester(table, work, seed, threads)
    out: dict[str, Floats] = {}
    for fold in folds:
        apart = table.fold == fold
        rows = np.nonzero(apart)[0]
        grown = forester.forest("sepsis", (*SHIPPED["sepsis"], OWN), apart, f"-{fold}")
        if grown.which is None:
            raise SystemExit("both hospitals of PhysioNet 2019 are needed")
        all_, first, second, which = (
            Grown(all=members).told(table, rows, threads)[0]
            for members in (grown.all, grown.first, grown.second, [(grown.which, 1.0)])
        )

        def own(like: Floats, a: Floats = first, b: Floats = second) -> Floats:
            return (1.0 - like) * a + like * b

        like = likeness(which)
        said = {"shipped": all_}
        said |= {f"{w:.0%} of own": (1 - w) * all_ + w * own(like) for w in (0.25, 0.5, 0.75, 1.0)}
        said["50% of both, alike"] = 0.5 * all_ + 0.5 * own(np.full_like(like, 0.5))
        known = (table.hospital[rows] == 1).astype(np.float64)
        said["50% of own, the hospital told"] = 0.5 * all_ + 0.5 * own(known)
        for name, x in said.items():
            out.setdefault(name, np.zeros(len(table.stay)))[rows] = x
    return out


def main() -> None:
    """Print a line for each way of counting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--limit", type=int, help="about how many stays of each set")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    folds = [int(fold) for fold in given.folds.split(",")]
    work = given.out / "cache"
    table = without_outcome(build(given.data, work, SETS, given.limit, Features()))
    said = told(table, work, given.seed, folds, given.threads)
    want, weight = targets(table, "sepsis")
    known = np.nonzero((table.labels[:, SEPSIS] >= 0) & np.isin(table.fold, folds))[0]
    some = replace(table, signals=table.signals[:, :0], minutes=table.minutes[:, :0]).select(known)
    label, hospital = some.labels[:, SEPSIS], some.hospital
    gain = metrics.gains(label, some.hour, some.stay)
    stays = by_stay(some, np.ones(len(known), np.bool_))
    for name, whole in said.items():
        x, y, w = whole[known], want[known], weight[known]
        limit = metrics.best_threshold(x, gain)
        line = LogisticRegression(C=1e6).fit(x[:, None], y, w)
        p = line.predict_proba(x[:, None])[:, 1]
        loss = -w * (y * np.log(p) + (1 - y) * np.log(1 - p))
        print(name)
        for of, mine in (("all", hospital >= 0), ("A", hospital == 0), ("B", hospital == 1)):
            chosen = [rows for rows in stays if mine[rows[0]]]
            utility = metrics.utility([(label[rows], x[rows] >= limit) for rows in chosen])
            auroc = roc_auc_score(label[mine] == 1, x[mine])
            print(
                f"  {of:4}utility {utility:.4f}  AUROC {auroc:.4f}  "
                f"log loss {loss[mine].sum() / w[mine].sum():.4f}"
            )


if __name__ == "__main__":
    main()
