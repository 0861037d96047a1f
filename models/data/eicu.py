"""eICU demo: hourly values of a week (`hourly.parquet`, from the YAIB benchmark), admission tables,
and what was charted at the bedside (`eicu_bedside`), where its tables are there.

Problems come from the admission diagnosis and the past history only: later diagnoses would leak
the future.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from models.data import eicu_bedside as bedside
from models.data.files import members
from models.data.problems import from_admission, from_history
from models.data.stays import (
    HOUR_MS,
    MINUTE_MS,
    Admission,
    BadRecord,
    Labels,
    Sex,
    Stay,
    UnitType,
    fraction,
    from_grid,
    plausible,
)
from models.signals import INDEX

NAME: Final = "eicu-demo"
HOURLY: Final = "hourly.parquet"
UNITS: Final[dict[str, UnitType]] = {
    "Med-Surg ICU": "mixed",
    "MICU": "medical",
    "SICU": "surgical",
    "Cardiac ICU": "coronary",
    "CCU-CTICU": "coronary",
    "CTICU": "cardiac_surgery",
    "CSICU": "cardiac_surgery",
    "Neuro ICU": "neuro",
}
_SEX: Final[dict[str, Sex]] = {"Female": "female", "Male": "male"}
_SIGNALS: Final[dict[str, int]] = {
    column: INDEX[name]
    for column, name in {
        "alb": "albumin",
        "alp": "alp",
        "alt": "alt",
        "ast": "ast",
        "be": "base_excess",
        "bicar": "hco3",
        "bili": "bilirubin_total",
        "bili_dir": "bilirubin_direct",
        "bun": "bun",
        "ca": "calcium",
        "cl": "chloride",
        "crea": "creatinine",
        "dbp": "dbp",
        "fgn": "fibrinogen",
        "fio2": "fio2",
        "glu": "glucose",
        "hgb": "hgb",
        "hr": "hr",
        "k": "potassium",
        "lact": "lactate",
        "map": "map",
        "mg": "magnesium",
        "na": "sodium",
        "o2sat": "spo2",
        "pco2": "paco2",
        "ph": "ph",
        "phos": "phosphate",
        "plt": "platelets",
        "po2": "pao2",
        "ptt": "ptt",
        "resp": "resp",
        "sbp": "sbp",
        "temp": "temp",
        "tnt": "troponin_t",
        "urine": "urine_ml",
        "wbc": "wbc",
    }.items()
}
_ZERO_IS_MISSING: Final = frozenset(("hr", "sbp", "map", "dbp", "resp"))
_ADMISSION: Final = ("patient", "admissionDx", "pastHistory")
_OUTCOME: Final = ("diagnosis",)
_BEDSIDE: Final = (bedside.EXAM, bedside.RESPIRATORY)

_Row = dict[str, str]


def read(paths: Iterable[Path], labels: bool, bad: Callable[[BadRecord], None]) -> Iterator[Stay]:
    """Stays with hourly values; diagnoses and discharge are read only for labels."""
    tables = (*_ADMISSION, *_BEDSIDE, *(_OUTCOME if labels else ()))
    hourly: list[tuple[str, bytes]] = []
    rows: dict[str, dict[str, list[_Row]]] = {table: defaultdict(list) for table in tables}
    for name, content in members(paths, lambda n: n == HOURLY or _table(n) in tables, bad):
        if name == HOURLY:
            hourly.append((name, content))
        else:
            _collect(name, content, rows[_table(name)], bad)
    if not hourly:
        raise FileNotFoundError(f"{NAME}: no {HOURLY} among the files given")
    for name, content in hourly:
        for stay in _stays(name, content, rows, bad):
            stay.case = _admission(stay.record, rows)
            if labels:
                stay.labels = _labels(stay.record, rows)
            yield stay


def _table(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".csv") if ".csv" in name else ""


def _collect(
    name: str, content: bytes, by_stay: dict[str, list[_Row]], bad: Callable[[BadRecord], None]
) -> None:
    table = _table(name)
    try:
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        bad(BadRecord(name, None, f"cannot be read: {error}"))
        return
    reader = csv.DictReader(io.StringIO(text))
    if "patientunitstayid" not in (reader.fieldnames or ()):
        bad(BadRecord(name, 1, "expected a column patientunitstayid"))
        return
    for row in reader:
        clean = {key: value or "" for key, value in row.items() if key is not None}
        if table not in _BEDSIDE or bedside.keeps(table, clean):
            by_stay[clean["patientunitstayid"]].append(clean)


def _stays(
    name: str,
    content: bytes,
    rows: dict[str, dict[str, list[_Row]]],
    bad: Callable[[BadRecord], None],
) -> Iterator[Stay]:
    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        bad(BadRecord(name, None, f"cannot be read: {error}"))
        return
    if not {"stay_id", "hour"} <= set(table.column_names):
        bad(BadRecord(name, None, "expected columns stay_id and hour"))
        return
    table = table.sort_by([("stay_id", "ascending"), ("hour", "ascending")])
    names = [column for column in table.column_names if column in _SIGNALS]
    columns = [*(_SIGNALS[column] for column in names), *bedside.SIGNALS]
    grid = np.column_stack([_column(table, column) for column in names])
    ids = table["stay_id"].to_numpy()
    hours = table["hour"].to_numpy()
    cuts = np.flatnonzero(np.diff(ids)) + 1
    for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        if end == start:
            continue
        record = str(ids[start])
        if (np.diff(hours[start:end]) <= 0).any():
            bad(BadRecord(name, None, f"stay {record} has an hour twice"))
            continue
        times_ms = hours[start:end].astype(np.int64) * HOUR_MS
        charted = _charted(hours[start:end], record, rows)
        sparse = from_grid(times_ms, columns, np.hstack((grid[start:end], charted)))
        yield Stay(NAME, record, Admission(), times_ms, *sparse)


def _charted(
    hours: NDArray[np.int64], record: str, rows: dict[str, dict[str, list[_Row]]]
) -> NDArray[np.float64]:
    """What was charted at the bedside in each hour, the newest of it, [n, 3], NaN where nothing.

    An hour's row holds what was measured within it (the set's own rounding). What was charted
    before admission belongs to the first hour, what was charted in an hour without a row to the
    next one that has one.
    """
    grid = np.full((len(hours), len(bedside.SIGNALS)), np.nan)
    told = bedside.charted(*(rows[table].get(record, ()) for table in _BEDSIDE))
    for minute, signal, value in told:
        at = int(np.searchsorted(hours, max(minute, 0) // 60))
        if at < len(hours):
            grid[at, bedside.SIGNALS.index(signal)] = value
    return grid


def _column(table: pyarrow.Table, name: str) -> NDArray[np.float64]:
    values = np.array(table[name].to_numpy(), np.float64)
    if name in _ZERO_IS_MISSING:
        values[values == 0] = np.nan
    return fraction(values) if name == "fio2" else values


def _admission(record: str, rows: dict[str, dict[str, list[_Row]]]) -> Admission:
    patient = (rows["patient"].get(record) or [{}])[0]
    offset = _number(patient.get("hospitaladmitoffset", ""))
    age = patient.get("age", "")
    problems = [
        code
        for row in rows["admissionDx"].get(record, ())
        for code in from_admission(row.get("admitdxpath", ""))
    ]
    problems += [
        code
        for row in rows["pastHistory"].get(record, ())
        for code in from_history(row.get("pasthistorypath", ""))
    ]
    return Admission(
        hospital_admitted_ms=None if offset is None else round(offset * MINUTE_MS),
        age_years=90.0 if age.startswith(">") else plausible(_number(age), 0, 130),
        sex=_SEX.get(patient.get("gender", "")),
        unit_type=UNITS.get(patient.get("unittype", "")),
        weight_kg=plausible(_number(patient.get("admissionweight", "")), 20, 400),
        height_cm=plausible(_number(patient.get("admissionheight", "")), 100, 250),
        problems=list(dict.fromkeys(problems)),
    )


def _labels(record: str, rows: dict[str, dict[str, list[_Row]]]) -> Labels:
    patient = (rows["patient"].get(record) or [{}])[0]
    status = patient.get("hospitaldischargestatus", "")
    return Labels(
        mortality={"Expired": 1, "Alive": 0}.get(status),
        hospital=patient.get("hospitalid") or None,
        diagnoses=[
            row["diagnosisstring"]
            for row in rows["diagnosis"].get(record, ())
            if row.get("diagnosisstring")
        ],
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
