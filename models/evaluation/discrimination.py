"""The model beside its rivals on the same rows, with paired differences; the challenges' scores."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval
from models.evaluation.cohort import Cohort
from models.evaluation.tasks import Task
from models.training import metrics

Floats = NDArray[np.float64]
_FOLDS: Final = 5
JUDGED: Final = 4000
"""Stays of a set of PhysioNet 2012."""


def beside(task: Task, p: Floats, draws: Draws) -> dict[str, Any]:
    """AUROC and AUPRC of the model and of each rival, and how far the model is ahead."""
    counts = Counts.of(p, task.label, draws)
    auroc, auprc = measures.auroc(counts), measures.auprc(counts)
    said: dict[str, Any] = {
        "rows": len(task.row),
        "events": int(task.label.sum()),
        "patients": draws.patients,
        "auroc": interval(auroc),
        "auprc": interval(auprc),
        "rivals": {},
    }
    for name, value in task.rivals.items():
        other = Counts.of(value, task.label, draws)
        his_auroc, his_auprc = measures.auroc(other), measures.auprc(other)
        said["rivals"][name] = {
            "auroc": interval(his_auroc),
            "auprc": interval(his_auprc),
            "ahead_auroc": interval(auroc - his_auroc),
            "ahead_auprc": interval(auprc - his_auprc),
        }
    return said


class Utility:
    """The official utility of PhysioNet 2019 of any alarms on some rows.

    Args:
        cohort: All rows.
        row: Rows with a sepsis label, ascending.
    """

    def __init__(self, cohort: Cohort, row: NDArray[np.int64]) -> None:
        label, stay = cohort.label("sepsis")[row], cohort.stay[row]
        self.silent, self.alarm = np.zeros(len(row)), np.zeros(len(row))
        self.best = np.zeros(len(row))
        for at in np.split(np.arange(len(row)), np.nonzero(np.diff(stay))[0] + 1):
            silent, alarm = metrics.utilities(label[at])
            self.silent[at], self.alarm[at] = silent, alarm
            # No later than 3 h after onset an alarm gains or loses nothing: the better is the best.
            septic = label[at].any()
            self.best[at] = np.maximum(silent, alarm) if septic else silent

    def of(self, alarm: NDArray[np.bool_], draws: Draws) -> Floats:
        """Normalised utility, [K + 1]."""
        observed = draws.sums(np.where(alarm, self.alarm, self.silent))
        none, best = draws.sums(self.silent), draws.sums(self.best)
        room = best - none
        nothing: Floats = np.full_like(room, np.nan)
        return np.divide(observed - none, room, out=nothing, where=room > 0)

    def alarms(self, said: Floats, patient: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Alarms of anything that ranks, thresholds chosen on the other patients (5 folds)."""
        gain = self.alarm - self.silent
        ranked = np.nan_to_num(said)
        known, at = np.unique(patient, return_inverse=True)
        fold = (np.random.default_rng(9).permutation(len(known)) % _FOLDS)[at]
        out = np.zeros(len(said), np.bool_)
        for i in range(_FOLDS):
            mine = fold == i
            out[mine] = ranked[mine] >= metrics.best_threshold(ranked[~mine], gain[~mine])
        return out


def utilities(cohort: Cohort, task: Task, alarm: NDArray[np.bool_], draws: Draws) -> dict[str, Any]:
    """Official utility of the model and its rivals on a sepsis task.

    Args:
        cohort: All rows.
        task: Of the sepsis risk.
        alarm: The model's; the rivals' thresholds are chosen on the other patients, too.
        draws: Of the task's patients.
    """
    judge = Utility(cohort, task.row)
    own = judge.of(alarm, draws)
    said: dict[str, Any] = {"model": interval(own), "alarm_rate": round(float(alarm.mean()), 4)}
    for name, value in task.rivals.items():
        other = judge.of(judge.alarms(value, draws.at), draws)
        said[name] = {"utility": interval(other), "ahead": interval(own - other)}
    return said


def challenge_2012(task: Task, p: Floats, alarm: NDArray[np.bool_], draws: Draws) -> dict[str, Any]:
    """Event 1 and Event 2 of PhysioNet 2012, with intervals; Event 1 of the rivals beside.

    Event 2 grows with the number of stays: it is told for as many as the challenge judged, the
    mean of random choices where there are more.

    Args:
        task: One row of each stay.
        p: The model's probabilities.
        alarm: The model's; the rivals' thresholds are chosen on the other patients, too.
        draws: Of the patients.
    """
    times = draws.times[draws.at].astype(np.int64)
    event1 = _event1(alarm, task.label, draws)
    rng = np.random.default_rng(0)

    def event2(at: NDArray[np.int64], choices: int) -> float:
        some = (rng.permutation(at)[:JUDGED] for _ in range(choices if len(at) > JUDGED else 1))
        return float(np.mean([metrics.event2(p[rows], task.label[rows]) for rows in some]))

    stays = np.arange(len(p))
    drawn = [event2(np.repeat(stays, times[:, j]), 1) for j in range(1, times.shape[1])]
    event2s = np.array([event2(stays, 20), *drawn])
    said: dict[str, Any] = {"event1": interval(event1), "event2": interval(event2s, 2)}
    for name, value in task.rivals.items():
        other = _event1(_event1_alarms(np.nan_to_num(value), task.label), task.label, draws)
        said[name] = {"event1": interval(other), "ahead_event1": interval(event1 - other)}
    return said


def _event1_alarms(said: Floats, label: NDArray[np.bool_]) -> NDArray[np.bool_]:
    fold = np.random.default_rng(9).permutation(len(said)) % _FOLDS
    out = np.zeros(len(said), np.bool_)
    for i in range(_FOLDS):
        mine = fold == i
        out[mine] = said[mine] >= metrics.event1_threshold(said[~mine], label[~mine])
    return out


def _event1(alarm: NDArray[np.bool_], label: NDArray[np.bool_], draws: Draws) -> Floats:
    hit = draws.sums(alarm & label)
    said: Floats = np.minimum(
        hit / np.maximum(draws.sums(label), 1), hit / np.maximum(draws.sums(alarm), 1)
    )
    return said
