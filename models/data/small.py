"""Two small sets of real streams: BIDMC (1 Hz numerics) and PhysioNet/CinC Challenge 2009 (one MAP
a minute).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data.files import members
from models.data.stays import (
    MINUTE_MS,
    Admission,
    BadRecord,
    Labels,
    Sex,
    Stay,
    UnitType,
    from_grid,
    plausible,
)
from models.signals import INDEX

BIDMC: Final = "bidmc"
PHYSIONET2009: Final = "physionet2009"
_SEX: Final[dict[str, Sex]] = {"F": "female", "M": "male"}
_UNITS: Final[dict[str, UnitType]] = {
    "micu": "medical",
    "sicu": "surgical",
    "tsicu": "surgical",
    "ccu": "coronary",
    "csru": "cardiac_surgery",
    "nsicu": "neuro",
}
_NUMERICS: Final = "_Numerics.csv"
_FIX: Final = "_Fix.txt"


def read_bidmc(
    paths: Iterable[Path], labels: bool, bad: Callable[[BadRecord], None]
) -> Iterator[Stay]:
    """53 patients of 8 minutes; without a heart rate from the ECG the oximeter's pulse is taken."""
    forms: dict[str, Admission] = {}
    numerics: list[tuple[str, bytes]] = []
    for name, content in members(paths, lambda n: n.endswith((_NUMERICS, _FIX)), bad):
        if name.endswith(_FIX):
            forms[name.removesuffix(_FIX)] = _form(content)
        else:
            numerics.append((name, content))
    for name, content in numerics:
        record = name.removesuffix(_NUMERICS)
        try:
            columns, table = _table(name, content)
            stay = _bidmc(name, record, columns, table)
        except BadRecord as error:
            bad(error)
            continue
        stay.case = forms.get(record, stay.case)
        if labels:
            stay.labels = Labels(hospital="boston")
        yield stay


def read_physionet2009(
    paths: Iterable[Path], labels: bool, bad: Callable[[BadRecord], None]
) -> Iterator[Stay]:
    """60 records of 11 h; the group in the record's name (H1, H2, C1, C2) is the label."""
    for name, content in members(paths, lambda n: n.endswith(".csv") and n[0] in "HC", bad):
        try:
            columns, table = _table(name, content)
            if columns != ["minute", "map_mmHg"]:
                raise BadRecord(name, 1, "expected the header minute,map_mmHg")
            times_ms = _times(name, table[:, 0], MINUTE_MS)
        except BadRecord as error:
            bad(error)
            continue
        sparse = from_grid(times_ms, [INDEX["map"]], table[:, 1:])
        stay = Stay(PHYSIONET2009, name.removesuffix(".csv"), Admission(), times_ms, *sparse)
        if labels:
            stay.labels = Labels(hospital="boston", diagnoses=[name.split("_")[0]])
        yield stay


def _bidmc(name: str, record: str, columns: Sequence[str], table: NDArray[np.float64]) -> Stay:
    at = {column.strip(): i for i, column in enumerate(columns)}
    if not {"Time [s]", "HR", "PULSE", "RESP", "SpO2"} <= set(at):
        raise BadRecord(name, 1, "expected the columns Time [s], HR, PULSE, RESP, SpO2")
    times_ms = _times(name, table[:, at["Time [s]"]], 1_000)
    heart = table[:, at["HR"]]
    heart = np.where(np.isnan(heart), table[:, at["PULSE"]], heart)
    grid = np.column_stack([heart, table[:, at["RESP"]], table[:, at["SpO2"]]])
    sparse = from_grid(times_ms, [INDEX["hr"], INDEX["resp"], INDEX["spo2"]], grid)
    return Stay(BIDMC, record, Admission(), times_ms, *sparse)


def _form(content: bytes) -> Admission:
    fields = {
        key.strip(): value.strip()
        for key, found, value in (
            line.partition(":") for line in content.decode("utf-8", errors="replace").splitlines()
        )
        if found
    }
    age = fields.get("Age", "").rstrip("+")
    return Admission(
        age_years=plausible(float(age), 0, 130) if age.isdigit() else None,
        sex=_SEX.get(fields.get("Gender", "")),
        unit_type=_UNITS.get(fields.get("Location", "").lower()),
    )


def _table(name: str, content: bytes) -> tuple[list[str], NDArray[np.float64]]:
    """Header and rows of a table; an empty field is NaN. Raises BadRecord."""
    lines = content.decode("utf-8", errors="replace").splitlines()
    columns = lines[0].split(",") if lines else []
    rows: list[list[float]] = []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        try:
            rows.append([float(cell) if cell.strip() else math.nan for cell in line.split(",")])
        except ValueError:
            raise BadRecord(name, number, "a field is not a number") from None
        if len(rows[-1]) != len(columns):
            raise BadRecord(name, number, f"{len(rows[-1])} fields, the header has {len(columns)}")
    if not rows:
        raise BadRecord(name, len(lines), "no line after the header")
    return columns, np.array(rows, np.float64)


def _times(name: str, column: NDArray[np.float64], unit_ms: int) -> NDArray[np.int64]:
    if np.isnan(column).any() or (np.diff(column) <= 0).any():
        raise BadRecord(name, None, "the time is missing, or does not rise from row to row")
    times: NDArray[np.int64] = np.rint(column * unit_ms).astype(np.int64)
    return times
