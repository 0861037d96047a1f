"""The same figures in each unit type, sex, age band and hospital: who is served worse."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval
from models.evaluation.cohort import Cohort

Floats = NDArray[np.float64]
AGES: Final = (0.0, 45.0, 65.0, 80.0, 200.0)
AGE_NAMES: Final = ("below 45", "45 to 64", "65 to 79", "80 and above")
LEAST_EVENTS: Final = 20


def groups_of(cohort: Cohort) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Which stays are in which group of which kind, bool[P]."""
    age = cohort.age
    units = [u for u in np.unique(cohort.unit).tolist() if u]
    sexes = [s for s in np.unique(cohort.sex).tolist() if s]
    bands = zip(AGES[:-1], AGES[1:], AGE_NAMES, strict=True)
    return {
        "unit": {u: cohort.unit == u for u in units},
        "sex": {s: cohort.sex == s for s in sexes},
        "age": {name: (age >= low) & (age < high) for low, high, name in bands},
    }


def table(
    cohort: Cohort,
    row: NDArray[np.int64],
    p: Floats,
    label: NDArray[np.bool_],
    threshold: float,
) -> list[dict[str, Any]]:
    """Discrimination, calibration and alarms of each group that has events enough.

    Args:
        cohort: All rows.
        row: Those that are judged.
        p: Their probabilities.
        label: What happened.
        threshold: The shipped one.
    """
    out = []
    for kind, groups in groups_of(cohort).items():
        for name, stays in groups.items():
            mine = stays[cohort.stay[row]]
            events = int(label[mine].sum())
            if min(events, int(mine.sum()) - events) < LEAST_EVENTS:
                continue
            counts = Counts.of(p[mine], label[mine], Draws(cohort.stay[row][mine]))
            alarm = measures.alarm(counts, threshold)
            out.append(
                {
                    "kind": kind,
                    "group": name,
                    "patients": len(np.unique(cohort.stay[row][mine])),
                    "events": events,
                    "auroc": interval(measures.auroc(counts)),
                    "auprc": interval(measures.auprc(counts)),
                    "slope": interval(measures.slope(counts)),
                    "intercept": interval(measures.intercept(counts)),
                    "alarm_rate": interval(alarm["alarm_rate"]),
                    "sensitivity": interval(alarm["sensitivity"]),
                    "ppv": interval(alarm["ppv"]),
                }
            )
    return out
