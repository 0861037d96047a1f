"""PhysioNet/CinC Challenge 2012: the first 48 h of a stay, one file each (Silva et al. 2012)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from models.data.files import members
from models.data.stays import (
    MINUTE_MS,
    Admission,
    BadRecord,
    Labels,
    Sex,
    Stay,
    UnitType,
    plausible,
)
from models.signals import INDEX

NAME: Final = "physionet2012"
UNITS: Final[dict[float, UnitType]] = {
    1: "coronary",
    2: "cardiac_surgery",
    3: "medical",
    4: "surgical",
}
_SEX: Final[dict[float, Sex]] = {0: "female", 1: "male"}
_ADMISSION: Final = ("RecordID", "Age", "Gender", "Height", "ICUType")
_WEIGHT: Final = "Weight"
# Cuff readings yield to the arterial line where both were charted in one minute.
_CUFF: Final = frozenset(("NISysABP", "NIMAP", "NIDiasABP"))
_SIGNALS: Final[dict[str, int]] = {
    parameter: INDEX[name]
    for parameter, name in {
        "ALP": "alp",
        "ALT": "alt",
        "AST": "ast",
        "Albumin": "albumin",
        "BUN": "bun",
        "Bilirubin": "bilirubin_total",
        "Cholesterol": "cholesterol",
        "Creatinine": "creatinine",
        "DiasABP": "dbp",
        "FiO2": "fio2",
        "GCS": "gcs",
        "Glucose": "glucose",
        "HCO3": "hco3",
        "HCT": "hct",
        "HR": "hr",
        "K": "potassium",
        "Lactate": "lactate",
        "MAP": "map",
        "MechVent": "mech_vent",
        "Mg": "magnesium",
        "NIDiasABP": "dbp",
        "NIMAP": "map",
        "NISysABP": "sbp",
        "Na": "sodium",
        "PaCO2": "paco2",
        "PaO2": "pao2",
        "Platelets": "platelets",
        "RespRate": "resp",
        "SaO2": "sao2",
        "SysABP": "sbp",
        "Temp": "temp",
        "TroponinI": "troponin_i",
        "TroponinT": "troponin_t",
        "Urine": "urine_ml",
        "WBC": "wbc",
        "pH": "ph",
    }.items()
}


def read(paths: Iterable[Path], labels: bool, bad: Callable[[BadRecord], None]) -> Iterator[Stay]:
    """Stays of the sets given; outcomes only where labels are asked for."""
    paths = list(paths)
    outcomes = _outcomes(paths, bad) if labels else {}
    for name, content in members(paths, _is_record, bad):
        try:
            stay = parse(name, content)
        except BadRecord as error:
            bad(error)
            continue
        if labels:
            stay.labels = Labels(mortality=outcomes.get(stay.record), hospital="boston")
        yield stay


def parse(name: str, content: bytes) -> Stay:
    """One record's file. Raises BadRecord naming the line."""
    lines = content.decode("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "Time,Parameter,Value":
        raise BadRecord(name, 1, "expected the header Time,Parameter,Value")
    form: dict[str, float] = {}
    minutes: dict[int, dict[int, float]] = {}
    lines_of: set[tuple[int, int]] = set()
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        try:
            time, parameter, text = line.split(",")
            minute = int(time[:-3]) * 60 + int(time[-2:])
            value = float(text)
        except ValueError:
            raise BadRecord(name, number, "expected HH:MM,parameter,number") from None
        charted = minutes.setdefault(minute, {})
        if value == -1:
            continue
        signal = _SIGNALS.get(parameter)
        if signal is None:
            if parameter in _ADMISSION or (parameter == _WEIGHT and minute == 0):
                form.setdefault(parameter, value)
            continue
        if parameter == "pH" and value > 100:
            value /= 100  # charted without the point, as 735
        elif parameter == "FiO2" and value >= 15:
            value /= 100
        if parameter == "Urine":
            value += charted.get(signal, 0.0)  # two collections charted in one minute
        elif parameter in _CUFF and (minute, signal) in lines_of:
            continue
        elif parameter in ("SysABP", "MAP", "DiasABP"):
            lines_of.add((minute, signal))
        charted[signal] = value
    if not minutes:
        raise BadRecord(name, len(lines), "no line after the header")
    return _stay(name, form, minutes)


def _stay(name: str, form: dict[str, float], minutes: dict[int, dict[int, float]]) -> Stay:
    ordered = sorted(minutes)
    cells = [(i, s, v) for i, m in enumerate(ordered) for s, v in minutes[m].items()]
    record = form.get("RecordID")
    return Stay(
        NAME,
        str(int(record)) if record is not None else name.removesuffix(".txt"),
        Admission(
            age_years=plausible(form.get("Age"), 0, 130),
            sex=_SEX.get(form.get("Gender", -1)),
            unit_type=UNITS.get(form.get("ICUType", -1)),
            weight_kg=plausible(form.get(_WEIGHT), 20, 400),
            height_cm=plausible(form.get("Height"), 100, 250),
        ),
        np.array(ordered, np.int64) * MINUTE_MS,
        np.array([c[0] for c in cells], np.int32),
        np.array([c[1] for c in cells], np.int16),
        np.array([c[2] for c in cells], np.float32),
    )


def _is_record(name: str) -> bool:
    return name.endswith(".txt") and name[:-4].isdigit()


def _outcomes(paths: list[Path], bad: Callable[[BadRecord], None]) -> dict[str, int]:
    """Death in hospital by record, from every `Outcomes*.txt` among or beside the paths."""
    beside = {f for p in paths if p.is_file() for f in p.parent.glob("Outcomes*.txt")}
    died: dict[str, int] = {}
    files = members([*paths, *sorted(beside)], lambda name: name.startswith("Outcomes"), bad)
    for name, content in files:
        lines = content.decode("utf-8", errors="replace").splitlines()
        head = lines[0].split(",") if lines else []
        if "In-hospital_death" not in head:
            bad(BadRecord(name, 1, "expected a column In-hospital_death"))
            continue
        at = head.index("In-hospital_death")
        for number, line in enumerate(lines[1:], 2):
            try:
                fields = line.split(",")
                died[fields[0]] = int(fields[at])
            except (ValueError, IndexError):
                bad(BadRecord(name, number, "expected RecordID and a death of 0 or 1"))
    return died
