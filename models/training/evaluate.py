"""Calibrating on one part of the patients, measuring on another, and the card that says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.calibration import Calibration
from models.checkpoint import Calibrated
from models.evaluation.card import completed
from models.features import HIDEABLE, UNIT_MISSING
from models.moe import EXPERTS
from models.network import RISKS
from models.training import metrics
from models.training.cache import SETS, Table
from models.training.fit import logits_of
from models.training.split import PARTS, RULE

_SEPSIS, _MORTALITY = RISKS.index("sepsis"), RISKS.index("mortality")
_P12: Final = SETS.index("physionet2012")
_EICU: Final = SETS.index("eicu-demo")
DECISION_HOUR: Final = 47
Floats = NDArray[np.float64]


def part(table: Table, name: str) -> Table:
    """The rows of one part of the patients."""
    return table.select(table.part == [str(p) for p in PARTS].index(name))


def _measured(table: Table, risk: int) -> NDArray[np.bool_]:
    """Rows whose label of a risk may be used: eICU's outcome is for evaluation alone."""
    known = table.labels[:, risk] >= 0
    return known & (table.source != _EICU) if risk == _MORTALITY else known


def without_outcome(table: Table) -> Table:
    """The table with eICU's outcome hidden: it measures, and never trains."""
    labels = table.labels.copy()
    labels[table.source == _EICU, _MORTALITY] = -1
    return replace(table, labels=labels)


def calibrate(model: Calibrated, table: Table, seed: int) -> None:
    """Fit calibration and thresholds on the calibration part."""
    logits, _, _ = logits_of(model.network, table)
    for risk, name in enumerate(RISKS):
        known = _measured(table, risk)
        label = table.labels[known, risk] == 1
        if not 10 <= label.sum() <= len(label) - 10:
            continue
        model.calibration.fit(risk, logits[known, risk], label, table.stay[known], seed)
        p = _probability(model.calibration, logits)[:, risk]
        if name == "sepsis":
            gain = np.zeros(len(p))
            for rows in by_stay(table, known):
                silent, alarm = metrics.utilities(table.labels[rows, risk])
                gain[rows] = alarm - silent
            limit = metrics.best_threshold(p[known], gain[known])
        elif name == "mortality":
            last = last_rows(table, known & (table.source == _P12))
            limit = metrics.event1_threshold(p[last], table.labels[last, risk] == 1)
        else:
            limit = metrics.event1_threshold(p[known], label)
        model.calibration.threshold[risk] = float(np.clip(limit, 1e-4, 1 - 1e-4))


def _probability(calibration: Calibration, logits: Floats) -> Floats:
    p: Floats = torch.sigmoid(calibration.log_odds(torch.from_numpy(logits))).numpy()
    return p


def by_stay(table: Table, known: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Known rows of each stay."""
    at = np.nonzero(known)[0]
    return np.split(at, np.nonzero(np.diff(table.stay[at]))[0] + 1)


def last_rows(table: Table, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The last row of each stay within its first 48 hours."""
    use = known & (table.hour <= DECISION_HOUR)
    return np.array([rows[-1] for rows in by_stay(table, use)], np.int64)


def measure(model: Calibrated, table: Table) -> dict[str, Any]:
    """Everything the card says, on the rows of one part."""
    logits, share, novelty = logits_of(model.network, table)
    p = _probability(model.calibration, logits)
    limit = model.calibration.threshold.numpy()
    said: dict[str, Any] = {"stays": len(np.unique(table.stay)), "rows": len(table.stay)}
    for risk, name in enumerate(RISKS):
        known = _measured(table, risk)
        if not known.any():
            continue
        label = table.labels[known, risk] == 1
        said[name] = metrics.discrimination(p[known, risk], label)
        said[name]["alarm_rate"] = float((p[known, risk] >= limit[risk]).mean())
    said |= _sepsis(table, p[:, _SEPSIS] >= limit[_SEPSIS])
    for name, source in (("mortality_48h_physionet2012", _P12), ("mortality_24h_eicu", _EICU)):
        known = (table.labels[:, _MORTALITY] >= 0) & (table.source == source)
        if source == _EICU:
            known &= table.hour < 24
        if known.any():
            at = last_rows(table, known)
            label = table.labels[at, _MORTALITY] == 1
            said[name] = metrics.discrimination(p[at, _MORTALITY], label)
            if source == _P12:
                said[name]["event1"] = metrics.event1(p[at, _MORTALITY], label, limit[_MORTALITY])
                said[name]["event2"] = metrics.event2(p[at, _MORTALITY], label)
    said["experts"] = {
        "mean_share": dict(zip(EXPERTS, share.mean(0).round(4).tolist(), strict=True)),
        "gate_auroc": _gate(table, share),
        "gate_auroc_problems_and_unit_hidden": _gate(
            table, logits_of(model.network, _hidden(table))[1]
        ),
        "note": "the first is against labels that are partly inputs (eICU admission problems, "
        "2012 unit type): it shows that routing follows what is known. The second hides them.",
    }
    said["novelty"] = {
        "median": float(np.median(novelty)),
        "q95": float(np.quantile(novelty, 0.95)),
    }
    return said


def _sepsis(table: Table, alarm: NDArray[np.bool_]) -> dict[str, Any]:
    """Official utility over 2019's stays, overall and by hospital."""
    said: dict[str, Any] = {}
    for name, hospitals in (("all", (0, 1)), ("A", (0,)), ("B", (1,))):
        known = (table.labels[:, _SEPSIS] >= 0) & np.isin(table.hospital, hospitals)
        if known.any():
            stays = [(table.labels[r, _SEPSIS], alarm[r]) for r in by_stay(table, known)]
            said[name] = metrics.utility(stays)
    return {"sepsis_utility": said} if said else {}


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


def default_cache(out: Path) -> Path:
    """Where rows are kept while training into a folder."""
    return out / "cache"
