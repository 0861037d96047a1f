"""What an alert policy would have done on recorded stays: who is caught, how often it speaks.

Recorded sets have a row an hour, the policy's delays are minutes: a row's condition is held to last
until the next row, as a monitor would that goes on saying the same. A row on which too few signals
are fresh says nothing. An alert is held to be answered while its condition lasts, so it closes when
the condition has been gone for the hold time; then the refractory time runs.

Times are hours since admission. Axes: P stays, H hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation.bootstrap import Draws, interval
from models.evaluation.cohort import Cohort
from models.signals import VITALS

Floats = NDArray[np.float64]
HORIZON_H: Final = 12.0
"""An alert is true where onset comes within so many hours after it, or came `LATE_H` before."""
LATE_H: Final = 3.0
_TO_ONSET_H: Final = 6
"""The label of PhysioNet 2019 turns 1 so long before onset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Delays in hours; `fresh_least` of the signals `fresh` must be fresh."""

    version: str
    persist_h: float
    hold_h: float
    refractory_h: float
    fresh: tuple[str, ...] = ()
    fresh_least: int = 0


class Course:
    """Hour by hour what there is to judge by, for stays with a sepsis label.

    Args:
        cohort: All rows.
        row: Those to use, ascending.
        policy: Which signals must be fresh.
    """

    def __init__(self, cohort: Cohort, row: NDArray[np.int64], policy: Policy) -> None:
        label = cohort.label("sepsis")[row]
        row, label = row[label >= 0], label[label >= 0]
        self.row = row
        self.stays, at = np.unique(cohort.stay[row], return_inverse=True)
        hour = cohort.hour[row]
        first = np.full(len(self.stays), np.iinfo(np.int64).max)
        np.minimum.at(first, at, hour)
        self._place = at, hour - first[at]
        self._shape = len(self.stays), int(self._place[1].max()) + 1
        bits = sum(1 << VITALS.index(name) for name in policy.fresh)
        fresh = np.bitwise_count(cohort.fresh[row] & bits) >= policy.fresh_least
        self._fresh = self._grid(fresh, False)
        self.days: Floats = np.bincount(at) / 24.0
        onset = np.full(len(self.stays), np.inf)
        septic = label == 1
        np.minimum.at(onset, at[septic], self._place[1][septic] + _TO_ONSET_H)
        self.onset: Floats = onset
        self.length = np.zeros(len(self.stays), np.int64)
        np.maximum.at(self.length, at, self._place[1] + 1)

    def _grid(self, value: NDArray[Any], empty: Any) -> NDArray[Any]:
        out = np.full(self._shape, empty, value.dtype)
        out[self._place] = value
        return out

    def grid(self, said: Floats) -> NDArray[np.float32]:
        """What is said of each row by stay and hour, NaN where nothing may be said, [P, H]."""
        out = self._grid(said.astype(np.float32), np.nan)
        return np.where(self._fresh, out, np.float32(np.nan))


@dataclass(frozen=True, slots=True)
class Alerts:
    """Alerts of all stays: whose, when opened, when closed (infinity: at the stay's end)."""

    stay: NDArray[np.int64]
    time: Floats
    end: Floats


def alerts(
    said: NDArray[np.float32], length: NDArray[np.int64], threshold: float, policy: Policy
) -> Alerts:
    """Every alert that opens, in hours since the stay's first row.

    Args:
        said: [P, H], NaN says nothing.
        length: Hours of each stay.
        threshold: At or above it the condition holds.
        policy: The delays.
    """
    order = np.argsort(-length, kind="stable")
    said, ends = said[order], np.sort(length)
    count = len(said)
    is_open, silent = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    since, until = np.full(count, np.nan), np.full(count, -np.inf)
    standing = np.full(count, -1)
    ended: list[NDArray[np.int64]] = []
    ends_at: list[Floats] = []
    stays: list[NDArray[np.int64]] = []
    times: list[Floats] = []
    opened_so_far = 0
    for hour in range(said.shape[1]):
        n = count - int(np.searchsorted(ends, hour, side="right"))
        now, opened = said[:n, hour], is_open[:n]
        nothing = np.isnan(now)
        holds = ~nothing & (now >= threshold)
        gone = ~nothing & ~holds
        silent[:n] = np.where(nothing, silent[:n] + 1, 0)
        lost = opened & (silent[:n] == 2)
        end = np.where(gone & opened, hour + policy.hold_h, np.where(lost, float(hour), np.nan))
        over = ~np.isnan(end)
        until[:n] = np.where(over, end + policy.refractory_h, until[:n])
        ended.append(standing[:n][over])
        ends_at.append(end[over])
        opened &= ~over
        since[:n] = np.where(holds, np.where(np.isnan(since[:n]), hour, since[:n]), np.nan)
        at = np.maximum(np.maximum(since[:n] + policy.persist_h, until[:n]), hour)
        new = holds & ~opened & (at < hour + 1)
        opened |= new
        standing[:n][new] = opened_so_far + np.arange(int(new.sum()))
        opened_so_far += int(new.sum())
        stays.append(order[:n][new])
        times.append(at[new])
    closed = np.full(opened_so_far, np.inf)
    closed[np.concatenate(ended)] = np.concatenate(ends_at)
    return Alerts(np.concatenate(stays), np.concatenate(times), closed)


def judged(course: Course, found: Alerts, draws: Draws | None) -> dict[str, Any]:
    """Recall before onset, burden, predictive value and lead time of alerts.

    Args:
        course: The stays.
        found: Their alerts.
        draws: Of the stays, for intervals; without it values alone.
    """
    stay, time = found.stay, found.time
    count = len(course.stays)
    septic = np.isfinite(course.onset)
    before = time < course.onset[stay]
    ahead = course.onset[stay] - time
    near = septic[stay] & before & (found.end > course.onset[stay] - HORIZON_H)
    true = septic[stay] & (ahead <= HORIZON_H) & (ahead >= -LATE_H)
    caught, close, spoke = (np.zeros(count, np.bool_) for _ in range(3))
    caught[stay[septic[stay] & before]] = True
    close[stay[near]] = True
    spoke[stay] = True
    number = np.bincount(stay, minlength=count).astype(np.float64)
    hits = np.bincount(stay, true, count)
    first = np.full(count, np.inf)
    np.minimum.at(first, stay, time)
    lead = course.onset[caught] - first[caught]

    def ratio(above: NDArray[Any], below: NDArray[Any]) -> Any:
        if draws is None:
            return round(float(above.sum() / max(below.sum(), 1e-9)), 4)
        return interval(draws.sums(above) / np.maximum(draws.sums(below), 1e-9))

    said: dict[str, Any] = {
        "septic_stays_caught_before_onset": ratio(caught, septic),
        "alert_standing_within_12_h_before_onset": ratio(close, septic),
        "alerts_per_patient_day": ratio(number, course.days),
        "ppv_of_alerts": ratio(hits, number),
        "ppv_of_alerting_stays": ratio(spoke & septic, spoke),
        "stays_with_an_alert": ratio(spoke, np.ones(count)),
    }
    if len(lead):
        q25, q50, q75 = np.quantile(lead, [0.25, 0.5, 0.75]).round(1).tolist()
        said["lead_time_h"] = {"median": q50, "q25": q25, "q75": q75}
    return said


def operating_curve(
    course: Course, said: Floats, policy: Policy, points: int = 24
) -> dict[str, list[float]]:
    """Recall against burden over thresholds, the busiest first."""
    grid = course.grid(said)
    known = said[np.isfinite(said)]
    levels = np.unique(known)
    if len(levels) > points:
        shares = 1 - np.geomspace(0.002, 0.6, points)
        levels = np.unique(np.quantile(known, shares))
    out: dict[str, list[float]] = {"threshold": [], "recall": [], "alerts_per_day": [], "ppv": []}
    for level in levels.tolist():
        found = judged(course, alerts(grid, course.length, level, policy), None)
        out["threshold"].append(float(np.float32(level)))
        out["recall"].append(found["septic_stays_caught_before_onset"])
        out["alerts_per_day"].append(found["alerts_per_patient_day"])
        out["ppv"].append(found["ppv_of_alerts"])
    return out


def reaching(
    curve: dict[str, list[float]], recall: float = 0.8, burden: float = 1.0
) -> dict[str, Any]:
    """The quietest threshold that reaches a recall, and the best recall within a burden."""
    rows = list(zip(*curve.values(), strict=True))
    names = tuple(curve)
    enough = [row for row in rows if row[1] >= recall]
    quiet = [row for row in rows if row[2] <= burden]
    quietest = min(enough, key=lambda row: row[2], default=None)
    best = max(quiet, key=lambda row: row[1], default=None)
    return {
        "reached": quietest is not None and quietest[2] <= burden,
        "quietest_with_80_percent": None
        if quietest is None
        else dict(zip(names, quietest, strict=True)),
        "best_within_1_a_day": None if best is None else dict(zip(names, best, strict=True)),
    }
