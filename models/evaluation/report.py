"""Every figure of the card that is measured, from what was said of rows and from the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.data import Stay
from models.evaluation import alarm_policy, cadence, faithfulness, novelty, routing, subgroups
from models.evaluation import calibration_curve as reliable
from models.evaluation.alarm_policy import Course, Policy
from models.evaluation.bootstrap import DRAWS, Counts, Draws
from models.evaluation.cohort import Cohort, stays_of
from models.evaluation.decision_curve import curve
from models.evaluation.discrimination import beside, challenge_2012, utilities
from models.evaluation.tasks import Task, tasks_of
from models.evaluation.told import Told, some_stays
from models.network import RISKS
from models.predictor import Predictor
from models.scores import SCORES
from models.training.split import part_of

Floats = NDArray[np.float64]
PLOTTED: Final = (
    "sepsis_physionet2019",
    "mortality_48h_physionet2012",
    "hypotension",
    "hypoxaemia",
)
"""One task of each risk, whose curves, calibration and groups are in the card."""
LIMITS: Final = {"news2_7": ("news2", 7.0), "news2_5": ("news2", 5.0), "qsofa_2": ("qsofa", 2.0)}
_POINTS: Final = 30
STAYS: Final = 120


@dataclass(frozen=True, slots=True)
class Given:
    """What there is to measure.

    Attributes:
        cohort: All rows.
        told: What was said of some.
        others: What further rivals say of all rows of the cohort, by rival and risk.
        policy: The sepsis alert's.
    """

    cohort: Cohort
    told: Told
    others: dict[str, dict[str, Floats]]
    policy: Policy

    def said(self, task: Task) -> Floats:
        """Probabilities of a task's rows."""
        at = np.searchsorted(self.told.row, task.row)
        return self.told.risk(task.risk)[at]

    def alarm(self, task: Task) -> NDArray[np.bool_]:
        """Alarms of a task's rows, by thresholds that were not chosen on them."""
        return self.told.alarm(task.risk)[np.searchsorted(self.told.row, task.row)]


def of_rows(given: Given, shipped: Mapping[str, float]) -> dict[str, Any]:
    """Discrimination, calibration, decision curves, groups and alarms.

    Args:
        given: Rows and what was said.
        shipped: The thresholds in use, for alarm rates of groups.
    """
    cohort, told = given.cohort, given.told
    said: dict[str, Any] = {"tasks": {}, "calibration": {}, "decision_curve": {}, "curves": {}}
    said["subgroups"] = {}
    for task in tasks_of(cohort, told.rows(), given.others):
        p, draws = given.said(task), Draws(cohort.stay[task.row], DRAWS)
        counts = Counts.of(p, task.label, draws)
        entry = beside(task, p, draws) | {"calibration": reliable.calibration(counts)}
        if task.risk == "sepsis":
            entry["utility"] = utilities(cohort, task, given.alarm(task), draws)
        if task.name == "mortality_48h_physionet2012":
            entry["challenge"] = challenge_2012(task, p, given.alarm(task), draws)
        said["tasks"][task.name] = entry
        if task.name not in PLOTTED:
            continue
        said["calibration"][task.name] = reliable.reliability(p, task.label, draws)
        said["decision_curve"][task.name] = curve(p, task.rivals["news2"], task.label, draws)
        said["subgroups"][task.name] = subgroups.table(
            cohort, task.row, p, task.label, shipped[task.risk]
        )
        said["curves"][task.name] = {"model": _curves(counts)} | {
            name: _curves(Counts.of(value, task.label, draws))
            for name, value in task.rivals.items()
            if name in ("news2", "trees", "last_value")
        }
    if "sepsis_physionet2019" in said["tasks"]:
        said["alarm_policy"] = alarms(given, shipped["sepsis"])
    return said


def _curves(counts: Counts) -> dict[str, list[float]]:
    """ROC and precision-recall at about `_POINTS` points of equal steps of recall."""
    hit, false = (x[:, 0] for x in counts.above())
    recall, fall = hit / hit[0], false / false[0]
    # Where nothing is hit yet precision says nothing: the curve begins with the first hit.
    precision = np.where(hit > 0, hit / (hit + false), np.nan)
    precision = np.where(hit > 0, precision, precision[hit > 0][-1])
    order = np.argsort(recall, kind="stable")
    want = np.unique(np.searchsorted(recall[order], np.linspace(0, 1, _POINTS)))
    at = order[np.minimum(want, len(order) - 1)]
    # Recall alone leaves the foot of the curve bare: steps of the false positive rate too.
    back = np.argsort(fall, kind="stable")
    more = back[np.minimum(np.searchsorted(fall[back], np.linspace(0, 1, 12)), len(back) - 1)]
    at = np.unique(np.r_[at, more])[::-1]
    return {
        "recall": recall[at].round(4).tolist(),
        "false_positive_rate": fall[at].round(4).tolist(),
        "precision": precision[at].round(4).tolist(),
    }


def alarms(given: Given, threshold: float) -> dict[str, Any]:
    """The shipped sepsis alert on the model and the same policy on bedside scores."""
    cohort, policy = given.cohort, given.policy
    course = Course(cohort, given.told.rows()["sepsis"], policy)
    draws = Draws(course.stays)
    at = np.searchsorted(given.told.row, course.row)
    model = given.told.risk("sepsis")[at]
    positive = given.told.alarm("sepsis")[at].astype(np.float64)

    def judged(value: Floats, limit: float) -> dict[str, Any]:
        found = alarm_policy.alerts(course.grid(value), course.length, limit, policy)
        return {"threshold": limit} | alarm_policy.judged(course, found, draws)

    score = {
        name: cohort.score[course.row, SCORES.index(name)].astype(np.float64)
        for name in ("news2", "qsofa")
    }
    operating = alarm_policy.operating_curve(course, model, policy)
    return {
        "stays": len(course.stays),
        "septic_stays": int(np.isfinite(course.onset).sum()),
        "patient_days": round(float(course.days.sum()), 1),
        "policy": asdict(policy) | {"fresh": list(policy.fresh)},
        "as_shipped": judged(positive, 0.5) | {"threshold": threshold},
        "beside": {name: judged(score[s], limit) for name, (s, limit) in LIMITS.items()},
        "operating_curve": operating,
        "operating_curve_news2": alarm_policy.operating_curve(course, score["news2"], policy),
        "target": alarm_policy.reaching(operating),
    }


def of_weights(
    cohort: Cohort,
    own: Told,
    told: Told,
    predictor: Predictor,
    threshold: Mapping[str, float],
    data: Path,
    sets: tuple[str, ...],
    stays: int = STAYS,
) -> dict[str, Any]:
    """Bounds, novelty, drivers and routing, which need the weights themselves.

    Args:
        cohort: All rows.
        own: What the weights say of the test part.
        told: What was said of it by models that have not seen it, with bounds.
        predictor: The model as it serves.
        threshold: The shipped ones.
        data: Folder of the recorded sets.
        sets: Names of sets.
        stays: Of each set, for what is predicted again.
    """
    limits = np.array([threshold[name] for name in RISKS])
    test = [stay for name in sets for stay in some_stays(data, name, "test", stays)]
    stay, hour = cohort.stay[own.row], cohort.hour[own.row]
    drivers = {
        "deletion": faithfulness.deletion(predictor, limits, test),
        "neighbouring_hours": faithfulness.stability(own, stay, hour, limits),
        "neighbouring_minutes": faithfulness.minutes_apart(
            predictor, limits, [s for s in test if s.set_name == "physionet2012"]
        ),
    }
    return {
        "bounds": bounds(cohort, told),
        "drivers": drivers,
        "once_an_hour_or_a_second": cadence.compared(
            predictor, [s for s in test if s.set_name == "physionet2019"][: stays // 2]
        ),
        "novelty": unlike(cohort, told, predictor, data, sets, stays),
        "routing": routing.routed(
            cohort, own, predictor, [s for s in test if s.set_name == "physionet2012"]
        ),
    }


def bounds(cohort: Cohort, told: Told) -> dict[str, Any]:
    """Coverage of low and high on each plotted task, and by unit type and novelty."""
    said: dict[str, Any] = {}
    for task in tasks_of(cohort, told.rows()):
        if task.name not in PLOTTED:
            continue
        at = np.searchsorted(told.row, task.row)
        column = RISKS.index(task.risk)
        p, low, high = (x[at, column] for x in (told.p, told.low, told.high))
        patient = cohort.stay[task.row]
        entry = {
            "twenty_bins": reliable.coverage(p, low, high, task.label, patient),
            "five_groups_of_patients": reliable.coverage(
                p, low, high, task.label, patient, groups=5, bins=10
            ),
        }
        for kind, groups in subgroups.groups_of(cohort).items():
            inside = cells = 0.0
            for stays in groups.values():
                mine = stays[patient]
                if task.label[mine].sum() < subgroups.LEAST_EVENTS:
                    continue
                found = reliable.coverage(
                    p[mine], low[mine], high[mine], task.label[mine], patient[mine], bins=10
                )
                inside += (found["inside"] or 0.0) * found["cells"]
                cells += found["cells"]
            if cells:
                entry[f"ten_bins_in_each_{kind}"] = {
                    "cells": int(cells),
                    "inside": round(inside / cells, 4),
                }
        said[task.name] = entry
    return said


def unlike(
    cohort: Cohort,
    told: Told,
    predictor: Predictor,
    data: Path,
    sets: tuple[str, ...],
    stays: int,
) -> dict[str, Any]:
    """The novelty score's own evaluation."""
    said: dict[str, Any] = {"held_out": {}}
    many = 4 * stays
    if "physionet2012" in sets:
        train = some_stays(data, "physionet2012", "train", many)
        test = some_stays(data, "physionet2012", "test", many)
        for unit in ("coronary", "cardiac_surgery", "medical", "surgical"):
            said["held_out"][f"unit_{unit}"] = novelty.held_out(train, test, _is_unit(unit))
    if "physionet2019" in sets:
        both = _of_both_hospitals(data, 2 * stays)
        for hospital in ("A", "B"):
            said["held_out"][f"hospital_{hospital}"] = novelty.held_out(
                both["train"], both["test"], _is_hospital(hospital)
            )
    said["corrupted"] = novelty.corrupted(
        predictor, [s for name in sets for s in some_stays(data, name, "test", stays // 2)]
    )
    patient = cohort.stay[told.row]
    said["by_band"] = {
        risk: novelty.by_band(told, RISKS.index(risk), cohort.label(risk)[told.row], patient)
        for risk in RISKS
    }
    return said


def _is_unit(unit: str) -> Callable[[Stay], bool]:
    return lambda stay: stay.case.unit_type == unit


def _is_hospital(hospital: str) -> Callable[[Stay], bool]:
    return lambda stay: stay.labels is not None and stay.labels.hospital == hospital


def _of_both_hospitals(data: Path, count: int) -> dict[str, list[Stay]]:
    """So many stays of each hospital of 2019, by part."""
    found: dict[tuple[str, str], list[Stay]] = {
        (part, hospital): [] for part in ("train", "test") for hospital in ("A", "B")
    }
    for stay in stays_of(data, "physionet2019", None):
        hospital = stay.labels.hospital if stay.labels is not None else None
        mine = found.get((part_of(stay), hospital or ""))
        if mine is not None and len(mine) < count:
            mine.append(stay)
        if all(len(stays) == count for stays in found.values()):
            break
    return {part: found[part, "A"] + found[part, "B"] for part in ("train", "test")}


def base_rates(cohort: Cohort, told: Told) -> dict[str, Any]:
    """Stays, rows and events that were judged."""
    labels = cohort.labels[told.row]
    return {
        "stays": len(np.unique(cohort.stay[told.row])),
        "rows": len(told.row),
        "events": {r: int((labels[:, i] == 1).sum()) for i, r in enumerate(RISKS)},
    }
