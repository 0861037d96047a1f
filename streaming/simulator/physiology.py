"""The bodies of a whole ward, a step of any length at a time, all beds at once.

Each patient swings around a normal of their own: a slow drive shared by heart rate, pressure and
breathing, a fast noise, breathing that moves the heart rate (respiratory sinus arrhythmia) and the
pressure, a baroreflex, and the time of day. Every noise is an Ornstein-Uhlenbeck process, so that
steps of a second and of a quarter of an hour belong to one patient. Mean pressure is a third of the
way from diastolic to systolic.

Axes: B beds.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.signals import HIGH, INDEX, LOW
from streaming.simulator.patients import SCENARIOS, Patients
from streaming.simulator.scenarios import effect, severity

Floats = NDArray[np.float64]

MONITOR: Final = ("hr", "spo2", "sbp", "map", "dbp", "resp", "temp", "etco2")
"""Columns of what a step returns."""
_DECIMALS: Final = np.array([0, 0, 0, 0, 0, 0, 1, 0])
_DRIVE_S: Final = 900.0
_FAST_S: Final = 12.0
_SLOW_S: Final = 5_400.0
_DAY_S: Final = 86_400.0
_LOW: Final = LOW[[INDEX[name] for name in MONITOR]]
_HIGH: Final = HIGH[[INDEX[name] for name in MONITOR]]
_MOVED: Final = ("hr", "sbp", "dbp", "temp", "resp", "spo2")
_EFFECTS: Final = np.stack([effect(name) for name in _MOVED], axis=1)

# Bedside and laboratory values: usual value, spread between patients, decimals.
LABS: Final[dict[str, tuple[float, float, int]]] = {
    "wbc": (9.0, 2.5, 1),
    "hgb": (11.5, 1.3, 1),
    "hct": (34.5, 4.0, 1),
    "platelets": (215.0, 55.0, 0),
    "sodium": (139.0, 3.0, 0),
    "potassium": (4.1, 0.4, 1),
    "chloride": (104.0, 3.5, 0),
    "creatinine": (1.0, 0.3, 2),
    "bun": (18.0, 6.0, 0),
    "glucose": (135.0, 28.0, 0),
    "calcium": (8.5, 0.4, 1),
    "magnesium": (2.0, 0.2, 1),
    "bilirubin_total": (0.8, 0.3, 1),
    "troponin_t": (0.02, 0.01, 2),
}
GASES: Final[dict[str, tuple[float, float, int]]] = {
    "ph": (7.40, 0.03, 2),
    "paco2": (40.0, 3.5, 0),
    "pao2": (98.0, 16.0, 0),
    "hco3": (24.5, 1.8, 1),
    "base_excess": (0.0, 1.8, 1),
    "lactate": (1.2, 0.35, 1),
}


class Physiology:
    """The ward's bodies. Not thread-safe; every call moves the noise on.

    Args:
        patients: Who they are.
        rng: Where the noise comes from.
    """

    def __init__(self, patients: Patients, rng: np.random.Generator) -> None:
        self._patients, self._rng = patients, rng
        beds = len(patients.bed_ids)
        self._drive = rng.normal(size=beds)
        self._slow = rng.normal(size=(beds, 3))
        self._fast = rng.normal(size=(beds, 4))
        self._phase = rng.uniform(0, 2 * np.pi, beds)
        self._resp = patients.normal[:, 4].copy()
        panel = {**LABS, **GASES}
        usual = np.array([v[0] for v in panel.values()])
        spread = np.array([v[1] for v in panel.values()])
        self._lab_normal = usual + spread * rng.normal(size=(beds, len(panel))).clip(-2, 2)
        self._lab_spread = spread
        self._lab_names = tuple(panel)
        self._lab_effect = np.stack([effect(name) for name in panel], axis=1)
        self._gcs_effect = effect("gcs")

    def severity(self, live_s: float) -> Floats:
        """How far each bed's scenario has unfolded `live_s` after the monitors went live."""
        return severity(self._patients.scenario, live_s - self._patients.onset_s)

    def step(self, dt_s: float, live_s: float) -> Floats:
        """Move on by `dt_s` and read the monitors (`MONITOR`), as monitors round, float64[B, 8]."""
        who, rng = self._patients, self._rng
        beds = len(who.bed_ids)
        noise = rng.standard_normal((beds, 8))
        self._drive = _swing(self._drive, noise[:, 0], dt_s, _DRIVE_S)
        self._slow = _swing(self._slow, noise[:, 1:4], dt_s, _SLOW_S)
        self._fast = _swing(self._fast, noise[:, 4:8], dt_s, _FAST_S)
        self._phase = np.mod(self._phase + 2 * np.pi * self._resp / 60 * dt_s, 2 * np.pi)
        severe = self.severity(live_s)
        hr, sbp, dbp, temp, resp, spo2 = (who.normal + severe[:, None] * _EFFECTS[who.scenario]).T
        day = np.sin(2 * np.pi * live_s / _DAY_S)
        drive, slow, fast, breath = self._drive, self._slow, self._fast, np.sin(self._phase)
        pulse = 8.0 * drive + 2.0 * slow[:, 0] + 2.0 * day
        sbp = sbp + pulse + 2.5 * fast[:, 0] - 2.0 * breath
        dbp = np.minimum(dbp + 0.5 * pulse + 1.5 * fast[:, 0] - 1.0 * breath, sbp - 15.0)
        resp = resp + 1.6 * drive + 0.9 * fast[:, 1] + severe * 1.5 * fast[:, 1]
        # Baroreflex: pressure that swings up on its own slows the heart a little.
        hr = hr + 5.5 * drive + 3.0 * day + 2.2 * breath - 0.3 * (2.0 * slow[:, 0])
        irregular = (who.scenario == SCENARIOS.index("arrhythmia")) * severe
        hr = hr + (1.2 + 9.0 * irregular) * fast[:, 2]
        temp = temp + 0.18 * slow[:, 1] + 0.2 * day
        spo2 = np.minimum(spo2 + 0.6 * slow[:, 2] + 0.5 * fast[:, 3], 100.0)
        etco2 = np.where(who.ventilated, 38.0 - 0.5 * (resp - 16.0) + 1.2 * fast[:, 1], np.nan)
        self._resp = np.clip(resp, 4, 60)
        mean = dbp + (sbp - dbp) / 3
        read = np.stack([hr, spo2, sbp, mean, dbp, resp, temp, etco2], axis=1)
        read[:, 6] = np.round(read[:, 6], 1)
        read[:, :6] = np.round(read[:, :6])
        read[:, 7] = np.round(read[:, 7])
        clipped: Floats = np.clip(read, _LOW, _HIGH)
        return clipped

    def labs(
        self, bed: int, names: dict[str, tuple[float, float, int]], live_s: float
    ) -> dict[str, float | None]:
        """A laboratory's result for one bed."""
        severe = float(self.severity(live_s)[bed])
        scenario = int(self._patients.scenario[bed])
        found: dict[str, float | None] = {}
        for name, (_, spread, decimals) in names.items():
            at = self._lab_names.index(name)
            value = (
                self._lab_normal[bed, at]
                + severe * self._lab_effect[scenario, at]
                + 0.15 * spread * self._rng.standard_normal()
            )
            i = INDEX[name]
            found[name] = round(
                float(np.clip(value, max(LOW[i], 0.01 if LOW[i] >= 0 else LOW[i]), HIGH[i])),
                decimals,
            )
        return found

    def bedside(self, bed: int, live_s: float) -> dict[str, float | None]:
        """What a nurse charts each hour."""
        who = self._patients
        severe = float(self.severity(live_s)[bed])
        ventilated = bool(who.ventilated[bed])
        oxygen = float(who.oxygen[bed]) if not ventilated else max(0.3, float(who.oxygen[bed]))
        needs = who.scenario[bed] == SCENARIOS.index("desaturation")
        oxygen = max(oxygen, 0.4) if needs or severe > 0.6 else oxygen
        gcs = 15 + severe * float(self._gcs_effect[who.scenario[bed]])
        urine = max(5.0, 85 * (1 - 0.6 * severe) + 18 * float(self._rng.standard_normal()))
        return {
            "gcs": float(round(gcs)),
            "fio2": round(oxygen, 2),
            "on_oxygen": float(oxygen > 0.21),
            "mech_vent": float(ventilated),
            "urine_ml": float(round(urine)),
        }


def _swing(state: Floats, noise: Floats, dt_s: float, tau_s: float) -> Floats:
    """One exact step of an Ornstein-Uhlenbeck process of unit variance."""
    keep = np.exp(-dt_s / tau_s)
    moved: Floats = keep * state + np.sqrt(1 - keep * keep) * noise
    return moved
