"""Parts of a table's patients, what experts do on one, and the facts of the card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.checkpoint import Calibrated
from models.evaluation.card import completed
from models.features import HIDEABLE, UNIT_MISSING
from models.moe import EXPERTS
from models.network import RISKS
from models.training.cache import SETS, Table
from models.training.fit import logits_of
from models.training.split import PARTS, RULE

_MORTALITY: Final = RISKS.index("mortality")
_P12: Final = SETS.index("physionet2012")
_EICU: Final = SETS.index("eicu-demo")
DECISION_HOUR: Final = 47
Floats = NDArray[np.float64]


def part(table: Table, name: str) -> Table:
    """The rows of one part of the patients."""
    return table.select(table.part == [str(p) for p in PARTS].index(name))


def without_outcome(table: Table) -> Table:
    """The table with eICU's outcome hidden: it measures, and never trains."""
    labels = table.labels.copy()
    labels[table.source == _EICU, _MORTALITY] = -1
    return replace(table, labels=labels)


def by_stay(table: Table, known: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Known rows of each stay."""
    at = np.nonzero(known)[0]
    return np.split(at, np.nonzero(np.diff(table.stay[at]))[0] + 1)


def last_rows(table: Table, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The last row of each stay within its first 48 hours."""
    use = known & (table.hour <= DECISION_HOUR)
    return np.array([rows[-1] for rows in by_stay(table, use)], np.int64)


def measure(model: Calibrated, table: Table) -> dict[str, Any]:
    """What experts and novelty do on the rows of one part; `models.evaluation` has the rest."""
    _, share, novelty = logits_of(model.network, table)
    return {
        "stays": len(np.unique(table.stay)),
        "rows": len(table.stay),
        "experts": {
            "mean_share": dict(zip(EXPERTS, share.mean(0).round(4).tolist(), strict=True)),
            "gate_auroc": _gate(table, share),
            "gate_auroc_problems_and_unit_hidden": _gate(
                table, logits_of(model.network, _hidden(table))[1]
            ),
            "note": "eICU's labels are charted diagnoses; 2012's is the unit type, an input: the "
            "first shows that routing follows what is known. The second hides unit and problems.",
        },
        "novelty": {
            "median": float(np.median(novelty)),
            "q95": float(np.quantile(novelty, 0.95)),
        },
    }


def _hidden(table: Table) -> Table:
    """The table without unit types and problem codes: what the window alone says."""
    case = table.case.copy()
    case[:, list(HIDEABLE)] = 0
    case[:, UNIT_MISSING] = 1
    return replace(table, case=case)


def _gate(table: Table, share: Floats) -> dict[str, float]:
    """How well a share tells the patients of its kind from the others, at the stay's last row."""
    said: dict[str, float] = {}
    for source, where in ((_EICU, "eicu"), (_P12, "physionet2012")):
        known = (table.expert >= 0) & (table.source == source)
        if not known.any():
            continue
        at = np.array([rows[-1] for rows in by_stay(table, known)], np.int64)
        for bit, name in ((1, "oncology"), (2, "cardiology")):
            label = (table.expert[at] & bit) > 0
            if 0 < label.sum() < len(label):
                column = EXPERTS.index(name)
                said[f"{name}_{where}"] = float(roc_auc_score(label, share[at, column]))
    return said


def card_of(
    model: Calibrated,
    version: str,
    measured: dict[str, Any],
    command: str,
    plan: dict[str, int],
    sets: tuple[str, ...],
    figures: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The model card: what it is for, what it was trained on, what was measured.

    Args:
        model: The weights.
        version: What names them.
        measured: Of `measure`, on the test part.
        command: That trained them.
        plan: What determines them besides the rows.
        sets: That they were trained on.
        figures: Of `models.evaluation`, where they were evaluated already.

    Raises:
        models.evaluation.card.BadCard: The card is not what its schema says.
    """
    limit = model.calibration.threshold.tolist()
    facts = {
        "name": "vitalstream-moe",
        "version": version,
        "intended_use": "Research on streaming risk prediction in adult intensive care: four risks "
        "beside the values they come from. Never the primary alarm; no diagnosis.",
        "not_a_medical_device": True,
        "outputs": {
            "sepsis": "onset within 6 h, SepsisLabel of PhysioNet/CinC 2019",
            "mortality": "in-hospital death, PhysioNet/CinC 2012",
            "hypotension": "a mean arterial pressure below 65 mmHg within the next hour",
            "hypoxaemia": "an SpO2 below 90 % within the next hour",
        },
        "architecture": {
            "network": model.network.config.as_json(),
            "experts": list(EXPERTS),
            "parameters": sum(x.numel() for x in model.network.parameters()),
        },
        "training": {
            "command": command,
            "plan": plan,
            "sets": list(sets),
            "split": RULE,
            "unit": "rows are the last message of each hour; training stays give 16 hours each "
            "and every hour labelled septic",
            "teacher": "boosted trees of two thirds of the training stays speak of the others",
        },
        "calibration": "Platt scaling on the calibration part",
        "interval": "90 % band of the calibration curve, patients resampled, in 12 bins of the "
        "risk; up to four times wider with novelty. Coverage is in `evaluation.bounds`.",
        "thresholds": dict(zip(RISKS, limit, strict=True)),
        "threshold_rule": "calibration part: sepsis by best official utility, the others by the "
        "best lesser of sensitivity and positive predictive value",
        "measured_on": "the test part, which neither trained nor calibrated; recipes were chosen "
        "on the calibration part. The test part had been measured for three earlier trainings.",
        "compared": "trees, NEWS2, qSOFA and the last value alone on the rows of the test part; "
        "the trees have the network's features and training rows, and thresholds chosen as its own",
        "measured": measured,
        "populations_not_covered": [
            "children and neonates",
            "pregnancy",
            "wards outside intensive care",
            "hospitals outside the United States",
        ],
        "limits": [
            "Sepsis is learned from two hospitals; on hospitals not trained on it is worse.",
            "Mortality is learned from the first 48 hours of one hospital's stays.",
            "The rare-disease expert is the route of what is unlike the training data; open data "
            "cannot say whether it knows rare diseases.",
            "Hypotension and hypoxaemia are known only where the signal is measured in the hour.",
            "The bounds are those of the calibration curve, not of a patient.",
        ],
        "data": [
            {"name": "PhysioNet/CinC Challenge 2019", "licence": "CC BY 4.0"},
            {"name": "PhysioNet/CinC Challenge 2012", "licence": "ODC-BY 1.0"},
            {"name": "eICU Collaborative Research Database Demo", "licence": "ODbL 1.0"},
        ],
    }
    return completed(facts, figures)
