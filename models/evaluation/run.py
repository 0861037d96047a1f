"""`vitalstream evaluate`: from weights and archives to every figure and plot of the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from models import checkpoint
from models.evaluation import ablation, card, cohort, report, told
from models.evaluation.alarm_policy import Policy
from models.network import RISKS
from models.predictor import Predictor
from models.training.cache import SETS, folder_of

ABLATION: Final = "ablation.npz"
"""Beside out-of-fold predictions: the mixture taken apart, and a dense network, out of fold."""


def present(data: Path, sets: Sequence[str] | None) -> tuple[str, ...]:
    """The sets to use, in a fixed order. Raises ValueError for one that is not there."""
    wanted = SETS if sets is None else tuple(sets)
    for name in wanted:
        if name not in SETS:
            raise ValueError(f"set {name!r} is not one of {', '.join(SETS)}")
        if not folder_of(data, name).is_dir():
            raise ValueError(f"set {name}: no folder {folder_of(data, name)}")
    return tuple(name for name in SETS if name in wanted)


def evaluate(
    data: Path,
    model: Path | None,
    cache: Path,
    policy: Policy,
    *,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    predictions: Path | None = None,
    stays: int = report.STAYS,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure weights; returns the card's `evaluation`.

    Args:
        data: Folder of the recorded sets, as published.
        model: The weights; default: the shipped ones.
        cache: Folder for what can be used again.
        policy: Of the sepsis alert.
        sets: Names of sets; default: all that train.
        limit: About how many stays of each set; default: all.
        predictions: Out-of-fold predictions (`told.of_file`), which discrimination, calibration,
            groups and alarms are then measured on; default: the weights on the test part. An
            `ablation.npz` beside them (`load_tests/ablation.py`) is measured too.
        stays: Of each set, for what is predicted again with windows changed.
        threads: That predict; the numbers are the same on any number.

    Raises:
        models.checkpoint.BadCheckpoint: The weights cannot be used.
        ValueError: A set is unknown or missing, or the predictions are of other rows.
    """
    loaded, version = checkpoint.load(model or checkpoint.SHIPPED)
    used = present(data, sets)
    rows = cohort.read(data, cache, used, limit)
    predictor = Predictor(loaded, version, threads=threads)
    shipped = dict(zip(RISKS, loaded.calibration.threshold.tolist(), strict=True))
    own = told.of_weights(rows, data, cache, predictor, used, limit=limit)
    command = "vitalstream evaluate --data DATA --out OUT"
    unseen = own
    given = report.Given(rows, own, {}, policy)
    protocol = "the test part of the patients, which neither trained nor calibrated"
    weights_on = "these weights on the test part of the patients"
    if predictions is not None:
        out_of_fold, others = told.of_file(rows, predictions)
        unseen = told.bounded(own, out_of_fold, loaded.calibration)
        given = report.Given(rows, out_of_fold, others, policy)
        protocol = (
            "out of fold in cross-validation by patient (eICU by hospital): every patient is "
            "predicted by members, blend, calibration and thresholds made without them"
        )
        weights_on = (
            "drivers and novelty: these weights on the test part of the patients; bounds: the "
            "weights' bounds around what was said out of fold, novelty as none where not known"
        )
        command += " --predictions OUT/predictions.npz"
    if limit is not None:
        command += f" --limit {limit}"
    said: dict[str, Any] = {
        "protocol": protocol,
        "command": command,
        "weights_on": weights_on,
        "rows": report.base_rates(rows, given.told),
    }
    said |= report.of_rows(given, shipped)
    said |= report.of_weights(rows, own, unseen, predictor, shipped, data, used, stays)
    said["ablation"] = _apart(rows, data, loaded, used, limit, predictions)
    return said


def _apart(
    rows: cohort.Cohort,
    data: Path,
    model: checkpoint.Calibrated,
    sets: tuple[str, ...],
    limit: int | None,
    predictions: Path | None,
) -> dict[str, Any]:
    """What the mixture is worth: out of fold where that was worked out, and of the weights."""
    out: dict[str, Any] = {}
    if predictions is not None and predictions.with_name(ABLATION).is_file():
        whole, others = told.of_file(rows, predictions.with_name(ABLATION))
        out["out_of_fold"] = ablation.compared(rows, others | {"": ablation.by_risk(rows, whole)})
    if "eicu-demo" in sets:
        said = ablation.of_weights(rows, data, model, limit)
        if said:
            out["weights_on_test_hospitals_of_eicu"] = ablation.compared(rows, said)
    return out


def write(
    figures: dict[str, Any], model: Path | None, folder: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Write the weights with a card that has these figures, and its plots; returns card and plots.

    Args:
        figures: Of `evaluate`.
        model: The weights; default: the shipped ones.
        folder: Gets `model.safetensors`, `card.json` and `plots/`.

    Raises:
        models.evaluation.card.BadCard: The card beside the weights is none, or not as its schema.
    """
    # Imported here: its first import looks for the machine's fonts, for seconds, and says so.
    from models.evaluation import plots

    source = model or checkpoint.SHIPPED
    loaded, _ = checkpoint.load(source)
    facts = checkpoint.card(source)
    if not facts:
        raise card.BadCard(f"no {checkpoint.CARD} beside {source}")
    # Measured by a load test of the running service; it stays with the weights it was measured of.
    kept = facts.get("evaluation", {}).get("online_equals_offline")
    if kept is not None and "online_equals_offline" not in figures:
        figures = {**figures, "online_equals_offline": kept}
    said = card.completed(facts, figures)
    checkpoint.save(loaded, folder / "model.safetensors", said)
    return said, plots.draw(figures, folder / "plots")
