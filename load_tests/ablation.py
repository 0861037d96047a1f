"""What the mixture is worth, out of fold: taken apart, and beside a dense network of its size.

    python load_tests/ablation.py --data DATA --out OUT

OUT is the folder that `vitalstream train --out OUT` wrote, with the same epochs, seed and limit:
trees and networks of its cross-validation are read from there, and the dense networks trained.
Writes OUT/ablation.npz, which `vitalstream evaluate --predictions OUT/predictions.npz` measures.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.evaluation.run import ABLATION
from models.features import Features
from models.training.ablation import out_of_fold
from models.training.cache import SETS, build
from models.training.evaluate import without_outcome
from models.training.fit import Plan
from models.training.split import FOLDS


def main() -> None:
    """From archives and a finished training to `ablation.npz`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="default: OUT/cache")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the cross-validation")
    parser.add_argument("--only", help="folds to tell of, as 0,1; default: all")
    given = parser.parse_args()
    cache = given.cache or given.out / "cache"
    features = Features()
    sets = tuple(name for name in SETS if name in given.sets.split(","))
    table = build(given.data, cache, sets, given.limit, features)
    table = without_outcome(replace(table, fold=table.fold % given.folds))
    only = None if given.only is None else [int(fold) for fold in given.only.split(",")]
    said = out_of_fold(table, features, Plan(epochs=given.epochs, seed=given.seed), cache, only)
    given.out.mkdir(parents=True, exist_ok=True)
    part = given.out / "ablation.part"
    with part.open("wb") as file:
        np.savez_compressed(file, **said)  # type: ignore[arg-type]
    part.replace(given.out / ABLATION)
    print(f"{given.out / ABLATION}: {len(said['hour'])} rows")


if __name__ == "__main__":
    main()
