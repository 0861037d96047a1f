"""The catalogue of signals: the one place that knows names, units, codes and plausible bounds.

Units are those of the PhysioNet challenges. Bounds are plausibility limits (what a living patient's
monitor or
laboratory can report), not alarm limits: a value outside them is an artefact or a unit error and is
dropped.
LOINC codes: loinc.org; unit codes: UCUM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

VITAL: Final = "vital"
BEDSIDE: Final = "bedside"
LAB: Final = "lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One named quantity.

    Attributes:
        name: Key in an observation's `values`.
        label: What a clinician reads.
        unit: UCUM code.
        loinc: LOINC code.
        low: Smallest plausible value, inclusive.
        high: Largest plausible value, inclusive.
        group: `vital` (monitor), `bedside` (charted) or `lab`.
    """

    name: str
    label: str
    unit: str
    loinc: str
    low: float
    high: float
    group: str


def _signals(group: str, *rows: tuple[str, str, str, str, float, float]) -> tuple[Signal, ...]:
    return tuple(
        Signal(name=n, label=label, unit=u, loinc=code, low=lo, high=hi, group=group)
        for n, label, u, code, lo, hi in rows
    )


SIGNALS: Final[tuple[Signal, ...]] = (
    *_signals(
        VITAL,
        ("hr", "Heart rate", "/min", "8867-4", 10, 350),
        ("spo2", "SpO2", "%", "59408-5", 10, 100),
        ("temp", "Temperature", "Cel", "8310-5", 20, 45),
        ("sbp", "Systolic pressure", "mm[Hg]", "8480-6", 10, 320),
        ("map", "Mean arterial pressure", "mm[Hg]", "8478-0", 5, 300),
        ("dbp", "Diastolic pressure", "mm[Hg]", "8462-4", 5, 280),
        ("resp", "Respiratory rate", "/min", "9279-1", 0, 120),
        ("etco2", "End-tidal CO2", "mm[Hg]", "19891-1", 0, 150),
    ),
    *_signals(
        BEDSIDE,
        ("gcs", "Glasgow Coma Scale", "{score}", "9269-2", 3, 15),
        ("acvpu", "ACVPU", "{score}", "67775-7", 0, 4),
        ("on_oxygen", "On oxygen", "{0or1}", "57485-5", 0, 1),
        ("fio2", "Inspired oxygen", "1", "3150-0", 0.15, 1.0),
        ("urine_ml", "Urine output", "mL", "9187-6", 0, 11000),
        ("mech_vent", "Mechanical ventilation", "{0or1}", "19835-8", 0, 1),
    ),
    *_signals(
        LAB,
        ("base_excess", "Base excess", "mmol/L", "11555-0", -60, 100),
        ("hco3", "Bicarbonate", "mmol/L", "1963-8", 0, 60),
        ("ph", "Arterial pH", "[pH]", "2744-1", 6.3, 8.0),
        ("paco2", "PaCO2", "mm[Hg]", "2019-8", 5, 200),
        ("pao2", "PaO2", "mm[Hg]", "2703-7", 10, 800),
        ("sao2", "SaO2", "%", "2708-6", 10, 100),
        ("ast", "AST", "U/L", "1920-8", 0, 50000),
        ("alt", "ALT", "U/L", "1742-6", 0, 50000),
        ("alp", "Alkaline phosphatase", "U/L", "6768-6", 0, 10000),
        ("bun", "Blood urea nitrogen", "mg/dL", "3094-0", 0, 300),
        ("calcium", "Calcium", "mg/dL", "17861-6", 1, 30),
        ("chloride", "Chloride", "mmol/L", "2075-0", 20, 180),
        ("creatinine", "Creatinine", "mg/dL", "2160-0", 0, 60),
        ("bilirubin_direct", "Direct bilirubin", "mg/dL", "1968-7", 0, 60),
        ("bilirubin_total", "Total bilirubin", "mg/dL", "1975-2", 0, 100),
        ("glucose", "Glucose", "mg/dL", "2345-7", 1, 2000),
        ("lactate", "Lactate", "mmol/L", "2524-7", 0, 50),
        ("magnesium", "Magnesium", "mg/dL", "19123-9", 0, 30),
        ("phosphate", "Phosphate", "mg/dL", "2777-1", 0, 30),
        ("potassium", "Potassium", "mmol/L", "2823-3", 0.5, 30),
        ("sodium", "Sodium", "mmol/L", "2951-2", 80, 210),
        ("albumin", "Albumin", "g/dL", "1751-7", 0, 10),
        ("troponin_i", "Troponin I", "ng/mL", "10839-9", 0, 1000),
        ("troponin_t", "Troponin T", "ng/mL", "6598-7", 0, 100),
        ("hct", "Haematocrit", "%", "4544-3", 2, 80),
        ("hgb", "Haemoglobin", "g/dL", "718-7", 1, 35),
        ("ptt", "PTT", "s", "3173-2", 5, 300),
        ("wbc", "White blood cells", "10*3/uL", "6690-2", 0, 1000),
        ("fibrinogen", "Fibrinogen", "mg/dL", "3255-7", 10, 2500),
        ("platelets", "Platelets", "10*3/uL", "777-3", 0, 3000),
        ("cholesterol", "Cholesterol", "mg/dL", "2093-3", 5, 1000),
    ),
)

NAMES: Final[tuple[str, ...]] = tuple(s.name for s in SIGNALS)
INDEX: Final[dict[str, int]] = {name: i for i, name in enumerate(NAMES)}
COUNT: Final[int] = len(SIGNALS)
LOW: Final[NDArray[np.float64]] = np.array([s.low for s in SIGNALS])
HIGH: Final[NDArray[np.float64]] = np.array([s.high for s in SIGNALS])
GROUPS: Final[tuple[str, ...]] = (VITAL, BEDSIDE, LAB)
GROUP_OF: Final[NDArray[np.uint8]] = np.array([GROUPS.index(s.group) for s in SIGNALS], np.uint8)
VITALS: Final[tuple[str, ...]] = tuple(s.name for s in SIGNALS if s.group == VITAL)
