"""PhysioNet/CinC Challenge 2019: one hourly `.psv` a patient, two hospitals (Reyna et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data.files import members
from models.data.stays import (
    HOUR_MS,
    Admission,
    BadRecord,
    Labels,
    Stay,
    UnitType,
    fraction,
    from_grid,
    plausible,
)
from models.signals import INDEX

NAME: Final = "physionet2019"
_FIO2: Final = "FiO2"
_SIGNALS: Final[dict[str, int]] = {
    column: INDEX[name]
    for column, name in {
        "HR": "hr",
        "O2Sat": "spo2",
        "Temp": "temp",
        "SBP": "sbp",
        "MAP": "map",
        "DBP": "dbp",
        "Resp": "resp",
        "EtCO2": "etco2",
        "BaseExcess": "base_excess",
        "HCO3": "hco3",
        _FIO2: "fio2",
        "pH": "ph",
        "PaCO2": "paco2",
        "SaO2": "sao2",
        "AST": "ast",
        "BUN": "bun",
        "Alkalinephos": "alp",
        "Calcium": "calcium",
        "Chloride": "chloride",
        "Creatinine": "creatinine",
        "Bilirubin_direct": "bilirubin_direct",
        "Glucose": "glucose",
        "Lactate": "lactate",
        "Magnesium": "magnesium",
        "Phosphate": "phosphate",
        "Potassium": "potassium",
        "Bilirubin_total": "bilirubin_total",
        "TroponinI": "troponin_i",
        "Hct": "hct",
        "Hgb": "hgb",
        "PTT": "ptt",
        "WBC": "wbc",
        "Fibrinogen": "fibrinogen",
        "Platelets": "platelets",
    }.items()
}


def read(paths: Iterable[Path], labels: bool, bad: Callable[[BadRecord], None]) -> Iterator[Stay]:
    """Stays of the sets given; `SepsisLabel` only where labels are asked for."""
    for name, content in members(paths, lambda name: name.endswith(".psv"), bad):
        try:
            stay = parse(name, content, labels)
        except BadRecord as error:
            bad(error)
            continue
        yield stay


def parse(name: str, content: bytes, labels: bool = False) -> Stay:
    """One patient's file; columns are found by their names. Raises BadRecord naming the line."""
    head, _, body = content.decode("utf-8", errors="replace").replace("\r", "").partition("\n")
    columns, at, fio2 = _layout(head)
    if not at or "ICULOS" not in columns:
        raise BadRecord(name, 1, "expected a header with ICULOS and the signals, separated by |")
    table = _table(name, body, len(columns))
    hours = table[:, columns.index("ICULOS")]
    if np.isnan(hours).any() or (np.diff(hours) <= 0).any() or not len(hours):
        raise BadRecord(name, None, "ICULOS is missing, or does not rise from row to row")
    times_ms = ((hours - 1) * HOUR_MS).astype(np.int64)
    grid = table[:, list(at)]
    if fio2 is not None:
        grid[:, fio2] = fraction(grid[:, fio2])
    row, signal, value = from_grid(times_ms, [_SIGNALS[columns[i]] for i in at], grid)
    record = name.removesuffix(".psv")
    stay = Stay(NAME, record, _admission(columns, table[0]), times_ms, row, signal, value)
    if labels:
        sepsis = None
        if "SepsisLabel" in columns:
            sepsis = table[:, columns.index("SepsisLabel")].astype(np.int8)
        stay.labels = Labels(sepsis=sepsis, hospital="B" if record.startswith("p1") else "A")
    return stay


@lru_cache(maxsize=64)
def _layout(head: str) -> tuple[tuple[str, ...], tuple[int, ...], int | None]:
    """Column names, positions of the signals, and which of those is inspired oxygen."""
    columns = tuple(head.split("|"))
    at = tuple(i for i, column in enumerate(columns) if column in _SIGNALS)
    fio2 = next((k for k, i in enumerate(at) if columns[i] == _FIO2), None)
    return columns, at, fio2


def _table(name: str, body: str, width: int) -> NDArray[np.float64]:
    """The rows as float64[n, width]. One bulk conversion; the slow way only to find a bad line."""
    text = body.rstrip("\n")
    rows = text.count("\n") + 1 if text else 0
    fields = text.replace("\n", "|").split("|") if text else []
    if len(fields) == rows * width:
        try:
            return np.array(list(map(float, fields)), np.float64).reshape(rows, width)
        except ValueError:
            pass  # the loop below names the line
    for number, line in enumerate(text.split("\n"), 2):
        cells = line.split("|")
        if len(cells) != width:
            raise BadRecord(name, number, f"{len(cells)} fields, the header has {width}")
        for cell in cells:
            try:
                float(cell)
            except ValueError:
                raise BadRecord(name, number, "a field is not a number") from None
    raise BadRecord(name, None, "rows and header do not fit together")


def _admission(columns: tuple[str, ...], first: NDArray[np.float64]) -> Admission:
    """What the first row says on admission; the later rows repeat it."""

    def of(column: str) -> float | None:
        value = float(first[columns.index(column)]) if column in columns else math.nan
        return None if math.isnan(value) else value

    hours = of("HospAdmTime")
    gender = of("Gender")
    unit: UnitType | None = None
    if of("Unit1") == 1:
        unit = "medical"
    elif of("Unit2") == 1:
        unit = "surgical"
    return Admission(
        hospital_admitted_ms=None if hours is None else round(hours * HOUR_MS),
        age_years=plausible(of("Age"), 0, 130),
        sex=None if gender is None else ("male" if gender == 1 else "female"),
        unit_type=unit,
    )
