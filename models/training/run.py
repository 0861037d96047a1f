"""`vitalstream train`: from the published archives to weights, card and out-of-fold predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from models import checkpoint
from models.evaluation.card import completed
from models.features import Features
from models.training.cache import SETS, Table, build, folder_of
from models.training.cross import Crossing, crossed, measured
from models.training.evaluate import card_of, measure, without_outcome
from models.training.fit import Fitter, Plan, describe, fit
from models.training.split import FOLDS, PARTS

PREDICTIONS: Final = "predictions.npz"
_EICU: Final = SETS.index("eicu-demo")
_TEST: Final = [str(part) for part in PARTS].index("test")
_PROTOCOL: Final = {
    "calibration": "Platt scaling of the blended log-odds, bent at 12 knots to the observed rates, "
    "tilted and shifted by unit type, sex and age (ridge; not sepsis), on what was told out of "
    "fold; mortality on hours from 24 on",
    "threshold_rule": "out of fold: sepsis by best official utility, the others by the best lesser "
    "of sensitivity and positive predictive value",
    "measured_on": "cross-validation by patient (eICU by hospital): each fold by trees and a "
    "network of the other folds, with blend, calibration and thresholds chosen on what was told "
    "out of fold of the other folds. The shipped members learned from all patients but those of "
    "eICU's test hospitals. Experts and novelty: the shipped weights on eICU's test hospitals.",
    "compared": "out of fold, on the same rows: boosted trees alone (one model of the same "
    "features) and the network alone, each calibrated and its thresholds chosen in the same way",
}


def present(data: Path, sets: Sequence[str] | None) -> tuple[str, ...]:
    """The sets to use, in a fixed order. Raises ValueError for one that is not there."""
    wanted = SETS if sets is None else tuple(sets)
    for name in wanted:
        if name not in SETS:
            raise ValueError(f"set {name!r} is not one of {', '.join(SETS)}")
        if not folder_of(data, name).is_dir():
            raise ValueError(f"set {name}: no folder {folder_of(data, name)}")
    return tuple(name for name in SETS if name in wanted)


def train(
    data: Path,
    out: Path,
    *,
    sets: Sequence[str] | None = None,
    epochs: int = 4,
    folds: int = FOLDS,
    limit: int | None = None,
    seed: int = 7,
    cache: Path | None = None,
    fitted: Fitter = fit,
    threads: int = 1,
) -> dict[str, Any]:
    """Cross-validate, train on all, and write weights, card and predictions; returns the card.

    Args:
        data: Folder of the recorded sets, as published.
        out: Folder of `model.safetensors`, `card.json` and `predictions.npz`.
        sets: Names of sets; default: all that train.
        epochs: Passes over the rows.
        folds: Of the cross-validation.
        limit: About how many stays of each set; default: all.
        seed: The same seed, data and machine give the same weights.
        cache: Folder for rows and all that is resumable; default: `out/cache`.
        fitted: What fits a network: this process, on its CPU or a GPU, or a team of ranks.
        threads: That trees grow on; they are the same on any number.

    Raises:
        ValueError: A set is unknown or missing, or the patients are too few for the folds.
    """
    used = present(data, sets)
    cache = cache or out / "cache"
    torch.set_num_threads(1)
    features = Features()
    table = build(data, cache, used, limit, features)
    table = replace(table, fold=table.fold % folds)
    for fold in range(folds):
        if not (table.fold == fold).any():
            stays = len(np.unique(table.stay))
            raise ValueError(f"{stays} stays are too few: none falls into fold {fold} of {folds}")
    limited = "" if limit is None else f" --limit {limit}"
    command = (
        f"vitalstream train --data DATA --out OUT --sets {','.join(used)} --epochs {epochs}"
        f"{limited} --seed {seed}"
    )
    plan = Plan(epochs=epochs, seed=seed)
    return of_table(table, features, plan, cache, out, command, fitted, threads)


def of_table(
    table: Table,
    features: Features,
    plan: Plan,
    work: Path,
    out: Path,
    command: str,
    fitted: Fitter = fit,
    threads: int = 1,
) -> dict[str, Any]:
    """`train`, from the rows on."""
    crossing = Crossing(without_outcome(table), features, plan, work, fitted, threads)
    told = crossing.told()
    model = crossing.shipped(told)
    rows = crossed(crossing.table, told, plan.seed)
    figures = measured(table, rows)
    apart = (table.source == _EICU) & (table.part == _TEST)
    if apart.any():
        seen = measure(model, table.select(apart))
        figures |= {name: seen[name] for name in ("experts", "novelty")}
    figures["compared"] = {name: measured(table, rows, f"_{name}") for name in ("trees", "network")}
    figures = _known(figures)
    sets = tuple(SETS[i] for i in np.unique(table.source))
    said = card_of(model, checkpoint.version(model), figures, command, describe(plan), sets)
    said |= _PROTOCOL
    said["architecture"]["trees"] = model.trees.shape[0]
    said["training"] |= {
        "split": f"{crossing.folds} folds by a hash of set and record (hospital for eICU)",
        "unit": "rows are the last message of each hour; 8 drawn hours of a stay train, its last "
        "one, and every hour in which sepsis is labelled or an alarm for it would gain",
        "teacher": "boosted trees that have not seen the stay; in a fold, those of the other folds",
    }
    said = completed(said, None)
    out.mkdir(parents=True, exist_ok=True)
    part = (out / PREDICTIONS).with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **rows)
    part.replace(out / PREDICTIONS)
    checkpoint.save(model, out / "model.safetensors", said)
    return said


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures without those that nobody knows: sets that lack a label give NaN."""
    return {
        name: _known(value) if isinstance(value, dict) else value
        for name, value in figures.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }
