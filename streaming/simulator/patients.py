"""Who lies in the simulated beds: admission forms and each patient's own normal.

Axes: B beds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from streaming.messages import Case

Floats = NDArray[np.float64]
UnitType = Literal["medical", "surgical", "coronary", "cardiac_surgery", "neuro", "mixed"]

SCENARIOS: Final = ("stable", "sepsis", "bleeding", "desaturation", "arrhythmia")
_SHARES: Final = (0.50, 0.16, 0.10, 0.12, 0.12)
_SHOWN: Final = (
    ("sepsis", -3.0),
    ("stable", 0.0),
    ("desaturation", -1.0),
    ("stable", 0.0),
    ("bleeding", -0.4),
    ("stable", 0.0),
    ("arrhythmia", -1.0),
)
"""The first beds: scenario and hours from going live to its onset."""

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of patient: the units they come to, and what their problem list says."""

    name: str
    share: float
    units: tuple[UnitType, ...]
    problems: tuple[tuple[str, ...], ...]


PROFILES: Final = (
    Profile(
        "general",
        0.50,
        ("medical", "surgical", "mixed", "neuro"),
        (("ICD10:J18.9",), ("ICD10:K85.9",), ("ICD10:E11.9", "ICD10:N17.9"), ()),
    ),
    Profile(
        "oncology",
        0.18,
        ("medical", "surgical"),
        (("ICD10:C34.1",), ("ICD10:C92.0", "ICD10:D70"), ("ICD10:C18.7",), ("ICD10:C83.3",)),
    ),
    Profile(
        "cardiology",
        0.22,
        ("coronary", "cardiac_surgery"),
        (("ICD10:I21.0",), ("ICD10:I50.2", "ICD10:I10"), ("ICD10:I35.0",), ("ICD10:I48.1",)),
    ),
    Profile(
        "rare_disease",
        0.10,
        ("medical", "neuro"),
        (("ORPHA:558",), ("ORPHA:589",), ("ORPHA:365",), ("ORPHA:90062",)),
    ),
)


@dataclass(frozen=True, slots=True)
class Patients:
    """Everything about a ward's patients that does not change.

    Attributes:
        bed_ids: One a bed.
        scenario: Index into `SCENARIOS`, int64[B].
        profile: Index into `PROFILES`, int64[B].
        onset_s: When the scenario unfolds, seconds after the monitors go live, float64[B].
        normal: Each patient's own normal of `hr sbp dbp temp resp spo2`, float64[B, 6].
        ventilated: Breathes by machine, so that there is an end-tidal CO2, bool[B].
        oxygen: Inspired fraction, float64[B].
        female: bool[B].
        age_years: float64[B].
    """

    bed_ids: tuple[str, ...]
    scenario: NDArray[np.int64]
    profile: NDArray[np.int64]
    onset_s: Floats
    normal: Floats
    ventilated: NDArray[np.bool_]
    oxygen: Floats
    female: NDArray[np.bool_]
    age_years: Floats

    def cases(self, now_ms: int, history_h: float, seed: int) -> list[Case]:
        """Admission forms of a ward whose monitors have `history_h` behind them."""
        rng = np.random.default_rng([seed, 2])
        count = len(self.bed_ids)
        admitted = now_ms - (history_h + rng.uniform(0.05, 2.0, count)) * HOUR_MS
        before = admitted - rng.exponential(12.0, count) * HOUR_MS
        height = np.where(self.female, 164.0, 177.0) + rng.normal(0, 7, count)
        weight = (height / 100) ** 2 * rng.normal(27, 4, count).clip(18, 45)
        unit, problem = rng.integers(0, 1_000, (2, count)).tolist()
        cases: list[Case] = []
        for i, bed_id in enumerate(self.bed_ids):
            profile = PROFILES[self.profile[i]]
            cases.append(
                Case(
                    bed_id=bed_id,
                    case_id=f"sim-{bed_id}-{int(admitted[i])}",
                    status="open",
                    admitted_ms=int(admitted[i]),
                    hospital_admitted_ms=int(before[i]),
                    age_years=float(self.age_years[i]),
                    sex="female" if self.female[i] else "male",
                    unit_type=profile.units[unit[i] % len(profile.units)],
                    weight_kg=round(float(weight[i]), 1),
                    height_cm=round(float(height[i]), 1),
                    problems=list(profile.problems[problem[i] % len(profile.problems)]),
                )
            )
        return cases


def admit(beds: int, seed: int) -> Patients:
    """Fill a ward. The first beds show every scenario, so that a small ward is worth looking at."""
    rng = np.random.default_rng([seed, 1])
    scenario = rng.choice(len(SCENARIOS), beds, p=_SHARES)
    shown = _SHOWN[:beds]
    scenario[: len(shown)] = [SCENARIOS.index(name) for name, _ in shown]
    onset_h = rng.uniform(-5.0, 1.0, beds)
    onset_h[: len(shown)] = [hours for _, hours in shown]
    profile = rng.choice(len(PROFILES), beds, p=[p.share for p in PROFILES])
    mean = np.array([80.0, 124.0, 68.0, 36.9, 16.0, 97.0])
    spread = np.array([9.0, 12.0, 7.0, 0.25, 2.0, 1.1])
    normal = mean + spread * rng.normal(size=(beds, 6)).clip(-2, 2)
    return Patients(
        bed_ids=tuple(bed_id(i) for i in range(beds)),
        scenario=scenario,
        profile=profile,
        onset_s=onset_h * 3_600,
        normal=normal,
        ventilated=rng.random(beds) < 0.25,
        oxygen=np.where(rng.random(beds) < 0.4, rng.choice([0.28, 0.35, 0.4, 0.5], beds), 0.21),
        female=rng.random(beds) < 0.45,
        age_years=np.round(rng.normal(63, 15, beds).clip(19, 95)),
    )


def bed_id(index: int) -> str:
    """Name of a bed: 24 a bay, `A-01` first; bays are named as spreadsheets name columns."""
    bay, number = divmod(index, 24)
    letters = ""
    bay += 1
    while bay:
        bay, letter = divmod(bay - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return f"{letters}-{number + 1:02d}"
