"""`vitalstream train` and `evaluate`: from the published archives to weights and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models import checkpoint
from models.features import Features
from models.training.cache import SETS, build, folder_of
from models.training.evaluate import calibrate, card_of, measure, part, without_outcome
from models.training.fit import Plan, describe, fit
from models.training.reference import compare
from models.training.teacher import taught_of


def _present(data: Path, sets: Sequence[str] | None) -> tuple[str, ...]:
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
    epochs: int = 8,
    limit: int | None = None,
    seed: int = 7,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train, calibrate, measure, and write `model.safetensors` and `card.json`; returns the card.

    Args:
        data: Folder of the recorded sets, as published.
        out: Folder of the results.
        sets: Names of sets; default: all that train.
        epochs: Passes over the rows.
        limit: About how many stays of each set; default: all.
        seed: The same seed, data and machine give the same weights.
        cache: Folder for rows and the resumable state; default: `out/cache`.

    Raises:
        ValueError: A set is unknown or missing.
    """
    used = _present(data, sets)
    cache = cache or out / "cache"
    torch.set_num_threads(1)
    features = Features()
    table = build(data, cache, used, limit, features, seed)
    plan = Plan(epochs=epochs, seed=seed)
    model = checkpoint.Calibrated()
    rows = without_outcome(part(table, "train"))
    model.network = fit(rows, features, plan, cache, taught_of(rows, seed, cache))
    held = without_outcome(part(table, "calibrate"))
    calibrate(model, held, seed)
    limited = "" if limit is None else f" --limit {limit}"
    command = (
        f"vitalstream train --data DATA --out OUT --sets {','.join(used)} --epochs {epochs}"
        f"{limited} --seed {seed}"
    )
    test = part(table, "test")
    measured = measure(model.eval(), test)
    measured["compared"] = compare(rows, held, test, features, seed)
    said = card_of(model, checkpoint.version(model), measured, command, describe(plan), used)
    checkpoint.save(model, out / "model.safetensors", said)
    return said


def evaluate(
    data: Path,
    model: Path | None,
    cache: Path,
    *,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 7,
) -> dict[str, Any]:
    """Measure weights on the test part again; what the card's `measured` says.

    The features are made with the weights' own typical values.
    """
    loaded, version = checkpoint.load(model or checkpoint.SHIPPED)
    features = loaded.network.features
    used = _present(data, sets)
    table = build(data, cache / version, used, limit, features, seed, fit_typical=False)
    return measure(loaded, part(table, "test"))
