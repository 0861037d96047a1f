"""All rows of the recorded sets, with what stands beside them: labels, bedside scores, groups.

Made once from the archives and kept; nothing here depends on a model.

Axes: P stays, n rows, R risks, C scores.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from models.data import Stay, open_set
from models.features import VITAL_AT
from models.network import RISKS
from models.scores import SCORES
from models.scores import VERSION as SCORES_VERSION
from models.scores import score as score_of
from models.signals import INDEX
from models.training.cache import SETS, expert_of, folder_of
from models.training.rows import rows_of
from models.training.split import PARTS, fraction_of, part_of

FRESH_MS: Final = 15 * 60_000
NEWEST: Final = ("map", "spo2")
_FORM: Final = 3
_SIZES: Final = {"physionet2019": 32_368, "physionet2012": 8_000, "eicu-demo": 1_828}


@dataclass(frozen=True, slots=True)
class Cohort:
    """Rows of stays, a stay's rows together and in order.

    Attributes:
        record: Of each stay; source its set as an index into `SETS`; part into `PARTS`.
        hospital: '' where the set does not say, as `unit` and `sex`; age and apache NaN there.
        apache: APACHE IVa's own prediction of death in hospital, eICU only.
        expert: Which specialists the charted diagnoses, or 2012's unit, say the patient belongs to:
            1 oncology, 2 cardiology, 3 both, 0 neither, -1 unknown.
        stay: Of each row, index into the stays; hour since admission.
        labels: -1 where unknown, int8[n, R].
        score: Bedside scores, float32[n, C], NaN where nothing of one is known.
        newest: Newest values of `NEWEST`, float32[n, 2].
        fresh: Bit i: the vital i of `models.signals.VITALS` is no older than `FRESH_MS`.
    """

    record: NDArray[np.str_]
    source: NDArray[np.int8]
    part: NDArray[np.int8]
    hospital: NDArray[np.str_]
    unit: NDArray[np.str_]
    sex: NDArray[np.str_]
    age: NDArray[np.float32]
    apache: NDArray[np.float32]
    expert: NDArray[np.int8]
    stay: NDArray[np.int64]
    hour: NDArray[np.int64]
    labels: NDArray[np.int8]
    score: NDArray[np.float32]
    newest: NDArray[np.float32]
    fresh: NDArray[np.uint16]

    def label(self, risk: str) -> NDArray[np.int8]:
        """Labels of a risk, int8[n]."""
        return self.labels[:, RISKS.index(risk)]

    def from_set(self, name: str) -> NDArray[np.bool_]:
        """Rows of a set."""
        at: NDArray[np.bool_] = self.source[self.stay] == SETS.index(name)
        return at

    def in_part(self, name: str) -> NDArray[np.bool_]:
        """Rows of a part of the patients."""
        at: NDArray[np.bool_] = self.part[self.stay] == [str(p) for p in PARTS].index(name)
        return at


_ROWS: Final = ("stay", "hour", "labels", "score", "newest", "fresh")


def stays_of(data: Path, set_name: str, limit: int | None) -> Iterator[Stay]:
    """Stays of a set that have rows; with a limit about so many, drawn by a hash."""
    share = 1.0 if limit is None else limit / _SIZES[set_name]
    for stay in open_set(set_name, [folder_of(data, set_name)], labels=True):
        if fraction_of(f"limit/{stay.record}") < share and len(stay.row) and len(stay.times_ms):
            yield stay


def read(data: Path, cache: Path, sets: tuple[str, ...], limit: int | None = None) -> Cohort:
    """The cohort of some sets, from the cache where it is there.

    Args:
        data: Folder of the recorded sets, as published.
        cache: Folder to keep it in.
        sets: Names of sets.
        limit: About how many stays of each.
    """
    mark = f"{_FORM} {SCORES_VERSION} {RISKS} {data.resolve()} {sets} {limit}"
    path = cache / f"cohort-{hashlib.sha256(mark.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        write(path, _gather(data, sets, limit))
    with np.load(path) as found:
        return Cohort(**{name: found[name] for name in Cohort.__slots__})


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)


def _gather(data: Path, sets: tuple[str, ...], limit: int | None) -> dict[str, Any]:
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in _ROWS}
    stays: dict[str, list[Any]] = {n: [] for n in Cohort.__slots__ if n not in _ROWS}
    apache = _apache(data) if "eicu-demo" in sets else {}
    with Progress() as progress:
        for set_name in sets:
            task = progress.add_task(set_name, total=None)
            for stay in stays_of(data, set_name, limit):
                for name, value in _rows(stay, len(stays["record"])).items():
                    rows[name].append(value)
                case, known = stay.case, stay.labels
                stays["record"].append(stay.record)
                stays["source"].append(SETS.index(set_name))
                stays["part"].append(PARTS.index(part_of(stay)))
                stays["hospital"].append((known.hospital if known else None) or "")
                stays["unit"].append(case.unit_type or "")
                stays["sex"].append(case.sex or "")
                stays["expert"].append(expert_of(stay))
                stays["age"].append(np.nan if case.age_years is None else case.age_years)
                stays["apache"].append(
                    apache.get(stay.record, np.nan) if set_name == "eicu-demo" else np.nan
                )
                progress.advance(task)
    if not stays["record"]:
        raise ValueError("no stay is left: the sets hold none, or the limit is too small for them")
    kinds: dict[str, Any] = {"source": np.int8, "part": np.int8, "expert": np.int8}
    kinds |= {"age": np.float32, "apache": np.float32}
    said = {name: np.array(value, kinds.get(name, np.str_)) for name, value in stays.items()}
    return said | {name: np.concatenate(value) for name, value in rows.items()}


def _rows(stay: Stay, number: int) -> dict[str, NDArray[Any]]:
    rows = rows_of(stay, bins=1)
    newest, age = rows.windows.newest_value, rows.windows.newest_age_ms
    scale = np.full(len(newest), stay.case.spo2_scale or 1, np.int64)
    age = age[:, list(VITAL_AT)]
    fresh = ((age >= 0) & (age <= FRESH_MS)) @ (1 << np.arange(len(VITAL_AT)))
    return {
        "stay": np.full(len(newest), number, np.int64),
        "hour": rows.hour,
        "labels": rows.labels,
        "score": score_of(newest, scale)[0][:, : len(SCORES)].astype(np.float32),
        "newest": newest[:, [INDEX[name] for name in NEWEST]],
        "fresh": fresh.astype(np.uint16),
    }


def _apache(data: Path) -> dict[str, float]:
    """APACHE IVa's predicted death in hospital by stay; -1 in the file is none."""
    path = folder_of(data, "eicu-demo") / "apachePatientResult.csv.gz"
    if not path.exists():
        return {}
    said: dict[str, float] = {}
    for row in csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())):
        if row["apacheversion"] == "IVa" and row["predictedhospitalmortality"]:
            value = float(row["predictedhospitalmortality"])
            if 0.0 <= value <= 1.0:
                said[row["patientunitstayid"]] = value
    return said
