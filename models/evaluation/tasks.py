"""What is asked of the model, on which rows, and who else answers there.

Axes: n rows of the cohort, k of a task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.cohort import NEWEST, Cohort
from models.scores import SCORES

Floats = NDArray[np.float64]
BEDSIDE: Final = ("news2", "qsofa", "mews", "sirs")
LEAST_SAID: Final = 20
DECISION_H: Final = 48
EARLY_H: Final = 24
NORMAL: Final = {"hypotension": ("map", 65.0), "hypoxaemia": ("spo2", 90.0)}


@dataclass(frozen=True, slots=True)
class Task:
    """Rows on which one risk is judged.

    Attributes:
        name: Of the task.
        risk: Which risk.
        row: Index into the cohort's rows, ascending, int64[k].
        label: What happened, bool[k].
        rivals: What else ranks these rows, larger is riskier, by name, float64[k].
    """

    name: str
    risk: str
    row: NDArray[np.int64]
    label: NDArray[np.bool_]
    rivals: dict[str, Floats] = field(default_factory=dict)


def last_of_each(stay: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last of the rows of each stay."""
    mine = stay[row]
    return row[np.r_[mine[1:] != mine[:-1], True]] if len(row) else row


def tasks_of(
    cohort: Cohort,
    rows: Mapping[str, NDArray[np.int64]],
    others: dict[str, dict[str, Floats]] | None = None,
) -> Iterator[Task]:
    """Every task that has events among the rows.

    Args:
        cohort: All rows.
        rows: Those that something was said of, ascending, by risk.
        others: What further rivals say of all rows of the cohort, NaN where nothing, by rival
            and risk.
    """
    others = others or {}
    for name, risk, row in _rows(cohort, rows):
        label = cohort.label(risk)[row]
        row, label = row[label >= 0], label[label >= 0] == 1
        if not 0 < label.sum() < len(label):
            continue
        rivals = {
            score: cohort.score[row, SCORES.index(score)].astype(np.float64) for score in BEDSIDE
        }
        if risk in NORMAL:
            signal, _ = NORMAL[risk]
            value = cohort.newest[row, NEWEST.index(signal)].astype(np.float64)
            rivals["last_value"] = -value
        for rival, said in others.items():
            # One that says the same of all has not learned the risk.
            if risk in said and len(np.unique(said[risk][row].round(6))) > LEAST_SAID:
                rivals[rival] = said[risk][row]
        if name == "mortality_24h_eicu":
            apache = cohort.apache[cohort.stay[row]].astype(np.float64)
            yield Task(name, risk, row, label, rivals)
            there = np.isfinite(apache)
            if 0 < label[there].sum() < there.sum():
                yield Task(
                    f"{name}_with_apache",
                    risk,
                    row[there],
                    label[there],
                    {k: v[there] for k, v in rivals.items()} | {"apache_iva": apache[there]},
                )
            continue
        yield Task(name, risk, row, label, rivals)


def _rows(
    cohort: Cohort, told: Mapping[str, NDArray[np.int64]]
) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """Name, risk and rows of each task."""
    rows = told["sepsis"]
    rows = rows[cohort.from_set("physionet2019")[rows]]
    yield "sepsis_physionet2019", "sepsis", rows
    for hospital in ("A", "B"):
        mine = cohort.hospital[cohort.stay[rows]] == hospital
        yield f"sepsis_physionet2019_{hospital}", "sepsis", rows[mine]
    rows = told["mortality"]
    for name, source, hours in (
        ("mortality_48h_physionet2012", "physionet2012", DECISION_H),
        ("mortality_24h_eicu", "eicu-demo", EARLY_H),
    ):
        row = rows[cohort.from_set(source)[rows] & (cohort.hour[rows] < hours)]
        yield name, "mortality", last_of_each(cohort.stay, row)
    for risk, (signal, limit) in NORMAL.items():
        rows = told[risk]
        value = cohort.newest[rows, NEWEST.index(signal)]
        there = (cohort.label(risk)[rows] >= 0) & np.isfinite(value)
        yield risk, risk, rows[there]
        yield f"{risk}_now_normal", risk, rows[there & (value >= limit)]
        yield f"{risk}_eicu", risk, rows[there & cohort.from_set("eicu-demo")[rows]]
