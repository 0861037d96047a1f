"""What happens to simulated patients: how far a scenario moves a quantity, and when.

Sizes are those of textbook cases (sepsis: fever, fast heart and breathing, falling pressure, rising
lactate and white cells; bleeding: falling pressure and haemoglobin), not fitted to data.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streaming.simulator.patients import SCENARIOS

Floats = NDArray[np.float64]

EFFECTS: Final[dict[str, dict[str, float]]] = {
    "stable": {},
    "sepsis": {
        "hr": 42,
        "sbp": -40,
        "dbp": -25,
        "temp": 2.1,
        "resp": 12,
        "spo2": -4,
        "gcs": -3,
        "lactate": 4.2,
        "wbc": 11,
        "creatinine": 1.4,
        "platelets": -95,
        "hco3": -7,
        "base_excess": -7,
        "ph": -0.1,
        "bilirubin_total": 1.2,
        "bun": 22,
    },
    "bleeding": {
        "hr": 40,
        "sbp": -46,
        "dbp": -22,
        "temp": -0.6,
        "resp": 6,
        "gcs": -1,
        "lactate": 2.8,
        "hgb": -4.2,
        "hct": -12.5,
        "platelets": -60,
        "base_excess": -5,
        "hco3": -4,
        "ph": -0.06,
    },
    "desaturation": {"spo2": -13, "resp": 9, "hr": 14, "pao2": -30, "paco2": 9, "ph": -0.05},
    "arrhythmia": {"hr": 62, "sbp": -24, "dbp": -8, "troponin_t": 0.3, "potassium": -0.7},
}
"""Deviation at full severity, in the catalogue's units."""

_HOUR_S: Final = 3_600.0
_EPISODES: Final = {"desaturation": (1_100.0, 170.0), "arrhythmia": (1_700.0, 260.0)}
"""Scenarios that come and go: seconds from one to the next, and how long one lasts."""


def severity(scenario: NDArray[np.int64], since_onset_s: Floats) -> Floats:
    """How far each bed's scenario has unfolded, 0 to 1, float64[B]."""
    t_h = since_onset_s / _HOUR_S
    found = np.zeros(len(scenario))
    sepsis, bleeding = SCENARIOS.index("sepsis"), SCENARIOS.index("bleeding")
    # Treated, both subside; the ward is worth looking at for a day.
    found = np.where(scenario == sepsis, _rise(t_h - 1.5, 0.8) * _rise(16 - t_h, 1.5), found)
    found = np.where(scenario == bleeding, _rise(t_h - 0.8, 0.3) * _rise(7 - t_h, 0.8), found)
    for name, (period_s, length_s) in _EPISODES.items():
        into_s = np.mod(since_onset_s, period_s)
        bump = np.sin(np.pi * np.clip(into_s / length_s, 0, 1)) ** 0.5
        found = np.where(scenario == SCENARIOS.index(name), np.where(t_h > 0, bump, 0.0), found)
    return found


def effect(quantity: str) -> Floats:
    """Each scenario's deviation of a quantity at full severity, float64[scenarios]."""
    return np.array([EFFECTS[name].get(quantity, 0.0) for name in SCENARIOS])


def _rise(t_h: Floats, width_h: float) -> Floats:
    risen: Floats = 1.0 / (1.0 + np.exp(-np.clip(t_h / width_h, -50, 50)))
    return risen
