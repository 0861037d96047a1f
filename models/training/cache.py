"""Raw rows and features of stays on disk, in chunks, so that a killed run goes on where it was.

Axes: n rows of a chunk, S signals, D, E, F features, R risks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from models.config import GRID
from models.data import Stay, open_set
from models.features import Features, of_case, of_cases
from models.training.rows import Rows, rows_of
from models.training.split import PARTS, fold_of, fraction_of, part_of
from models.window_store import Windows

CHUNK: Final = 500
SETS: Final = ("physionet2019", "physionet2012", "eicu-demo")
_SIZES: Final = {"physionet2019": 32_368, "physionet2012": 8_000, "eicu-demo": 1_828}
_FORM: Final = "7"
_BUCKETS: Final = (12, 24, 48, 72)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of many stays, all of one order.

    Attributes:
        signals: float16[n, S, D]; minutes float16[n, V, E]; case float16[n, F].
        labels: int8[n, R], -1 where unknown.
        stay: Number of each row's stay; hour its hour since admission; both int64[n].
        part: Index into `split.PARTS`; source into `SETS`; expert 1 oncology, 2 cardiology,
            3 both, 0 neither, -1 unknown; all int8[n].
        hospital: 2019's A is 0 and B 1, otherwise -1.
        fold: Of cross-validation, int8[n]; record the stay's name in its set.
    """

    signals: NDArray[np.float16]
    minutes: NDArray[np.float16]
    case: NDArray[np.float16]
    labels: NDArray[np.int8]
    stay: NDArray[np.int64]
    hour: NDArray[np.int64]
    part: NDArray[np.int8]
    source: NDArray[np.int8]
    expert: NDArray[np.int8]
    hospital: NDArray[np.int8]
    fold: NDArray[np.int8]
    record: NDArray[np.str_]

    def select(self, keep: NDArray[Any]) -> Table:
        """Some of the rows."""
        return Table(*(getattr(self, name)[keep] for name in Table.__slots__))


def folder_of(data: Path, set_name: str) -> Path:
    """Where a set lies in the data folder."""
    return data / {"eicu-demo": "eicu-crd-demo"}.get(set_name, set_name)


def expert_of(stay: Stay) -> int:
    """Which specialists the charted diagnoses say the patient belongs to; for the gate's training
    and evaluation only. Where a set has none, its cardiac units say who is cardiologic.
    """
    known = stay.labels.diagnoses if stay.labels is not None else []
    if known:
        systems = {diagnosis.partition("|")[0] for diagnosis in known}
        return int("oncology" in systems) + 2 * int("cardiovascular" in systems)
    if stay.set_name == "physionet2012" and stay.case.unit_type is not None:
        return 2 if stay.case.unit_type in ("coronary", "cardiac_surgery") else 0
    return -1


def statistics(features: Features, stays: list[Stay]) -> None:
    """Set the typical values from stays of the training part."""
    signal = np.concatenate([s.bounded().signal for s in stays])
    value = np.concatenate([s.bounded().value for s in stays])
    for i in range(len(features.typical_S)):
        mine = value[signal == i]
        if len(mine) < 20:
            continue
        features.typical_S[i] = max(float(np.median(mine)), 1e-3)
        skewed = bool(features.skewed_S[i])
        x = mine / (mine + float(features.typical_S[i])) if skewed else mine
        low, high = np.quantile(x, [0.005, 0.995])
        x = np.clip(x, low, high).astype(np.float64)
        features.centre_S[i] = float(x.mean())
        features.spread_S[i] = max(float(x.std()), 1e-3)


def build(
    data: Path,
    cache: Path,
    sets: tuple[str, ...],
    limit: int | None,
    features: Features,
    *,
    fit_typical: bool = True,
) -> Table:
    """The table of all sets, from the cache where it is there.

    Args:
        data: Folder of the recorded sets.
        cache: Folder of the chunks.
        sets: Names of sets.
        limit: About how many stays of each set, or all.
        features: Gets its typical values from the first training stays, or from the cache.
        fit_typical: False where the features have their typical values already.
    """
    name = f"{_FORM} {GRID.digest} {sets} {limit}"
    cache = cache / hashlib.sha256(name.encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    typical = cache / "typical.npz"
    if not fit_typical and not typical.exists():
        _write(typical, {k: getattr(features, k).numpy() for k in _TYPICAL})
    if not typical.exists():
        some: list[Stay] = []
        for set_name in sets:
            stays = islice(_chosen(data, set_name, limit), 3000)
            some += [s for s in stays if part_of(s) == "train"]
        statistics(features, some)
        _write(typical, {k: getattr(features, k).numpy() for k in _TYPICAL})
    with np.load(typical) as found:
        for key in _TYPICAL:
            getattr(features, key).copy_(torch.from_numpy(found[key]))
    chunks: list[Path] = []
    with Progress() as progress:
        for number, set_name in enumerate(sets):
            task = progress.add_task(set_name, total=None)
            stays_of = _stays(data, set_name, limit)
            for at, group in enumerate(stays_of):
                path = cache / f"{set_name}-{at:04d}.npz"
                if not path.exists():
                    _write(path, _chunk(features, group, SETS.index(set_name)))
                chunks.append(path)
                progress.update(task, advance=len(group))
            progress.update(task, description=f"{set_name} read ({number + 1}/{len(sets)})")
    return _join(chunks)


_TYPICAL: Final = ("typical_S", "centre_S", "spread_S")


def _chosen(data: Path, set_name: str, limit: int | None) -> Iterator[Stay]:
    """Stays with labels; with a limit about as many, drawn by a hash so that all files count."""
    share = 1.0 if limit is None else limit / _SIZES[set_name]
    for stay in open_set(set_name, [folder_of(data, set_name)], labels=True):
        if fraction_of(f"limit/{stay.record}") < share:
            yield stay


def _stays(data: Path, set_name: str, limit: int | None) -> Iterator[list[Stay]]:
    stays = _chosen(data, set_name, limit)
    while group := list(islice(stays, CHUNK)):
        yield group


def _write(path: Path, arrays: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)


def _chunk(features: Features, stays: list[Stay], source: int) -> dict[str, Any]:
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Table.__slots__}
    for number, stay in enumerate(stays):
        part = PARTS.index(part_of(stay))
        if not len(stay.row) or not len(stay.times_ms):
            continue
        rows = rows_of(stay)
        n = len(rows.hour)
        made = features_of(features, rows, np.arange(n))
        hospital = stay.labels.hospital if stay.labels is not None else None
        more: tuple[tuple[str, NDArray[Any]], ...] = (
            ("signals", made[0]),
            ("minutes", made[1]),
            ("case", made[2]),
            ("labels", rows.labels),
            ("stay", np.full(n, number, np.int64)),
            ("hour", rows.hour),
            ("part", np.full(n, part, np.int8)),
            ("source", np.full(n, source, np.int8)),
            ("expert", np.full(n, expert_of(stay), np.int8)),
            ("hospital", np.full(n, {"A": 0, "B": 1}.get(hospital or "", -1), np.int8)),
            ("fold", np.full(n, fold_of(stay), np.int8)),
            ("record", np.full(n, stay.record)),
        )
        for name, value in more:
            columns[name].append(value)
    return {name: np.concatenate(values) for name, values in columns.items()}


def features_of(
    features: Features, rows: Rows, keep: NDArray[np.int64]
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.float16]]:
    """Features of some rows of a stay, by the function that serves."""
    w = rows.windows
    longest = int(w.length[keep].max(initial=1))
    bins = next(b for b in _BUCKETS if b >= longest)
    some = Windows(
        hours=w.hours[keep][:, -bins:],
        minutes=w.minutes[keep],
        newest_value=w.newest_value[keep],
        newest_age_ms=w.newest_age_ms[keep],
        newest_ms=w.newest_ms[keep],
        phase_ms=w.phase_ms[keep],
        length=w.length[keep],
        cases=[w.cases[0]] * len(keep),
    )
    with torch.inference_mode():
        signals, minutes = features.of_windows(some, slice(None))
    static = np.repeat(of_case(w.cases[0])[None], len(keep), 0)
    case = of_cases(static, some.newest_ms, some.phase_ms)
    return (
        signals.numpy().astype(np.float16),
        minutes.numpy().astype(np.float16),
        case.astype(np.float16),
    )


def _join(chunks: list[Path]) -> Table:
    if not chunks:
        raise ValueError("no stay is left: the sets hold none, or the limit is too small for them")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Table.__slots__}
    start = 0
    for path in chunks:
        with np.load(path) as found:
            for name in columns:
                columns[name].append(found[name] + start if name == "stay" else found[name])
        start += CHUNK
    return Table(**{name: np.concatenate(values) for name, values in columns.items()})
