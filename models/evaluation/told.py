"""What a model said of rows of a cohort: from its weights as they serve, or out of fold.

Axes: k rows, S signals, R risks, E experts, K drivers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from models.calibration import Calibration
from models.data import Stay
from models.evaluation.cohort import Cohort, stays_of, write
from models.network import RISKS
from models.predictor import Predictor
from models.training.cache import SETS
from models.training.rows import rows_of
from models.training.split import PARTS, part_of
from models.window_store import Windows

Floats = NDArray[np.float64]
_FORM: Final = 2
_BATCH: Final = 512
_FIELDS: Final = (
    *("p", "low", "high", "positive", "novelty", "share", "driver_signal", "driver_effect"),
)


@dataclass(frozen=True, slots=True)
class Told:
    """What was said of some rows; what out-of-fold predictions lack is empty, of length 0.

    Attributes:
        row: Index into the cohort's rows, ascending, int64[k].
        p: float64[k, R]; low and high the same; novelty [k]; share [k, E].
        positive: Whether p reaches a threshold that was not chosen on these patients, bool[k, R].
        driver_signal: int16[k, K], -1 where fewer; driver_effect in log-odds.
    """

    row: NDArray[np.int64]
    p: Floats
    low: Floats
    high: Floats
    positive: NDArray[np.bool_]
    novelty: Floats
    share: Floats
    driver_signal: NDArray[np.int16]
    driver_effect: Floats

    def risk(self, name: str) -> Floats:
        """Probabilities of a risk, [k]."""
        return self.p[:, RISKS.index(name)]

    def alarm(self, name: str) -> NDArray[np.bool_]:
        """Alarms of a risk, [k]."""
        return self.positive[:, RISKS.index(name)]

    def rows(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the cohort that something was said of, by risk."""
        return {name: self.row[np.isfinite(self.risk(name))] for name in RISKS}


def selected(windows: Windows, keep: NDArray[np.int64], bins: int) -> Windows:
    """Some windows of one stay, of their newest hours only."""
    return Windows(
        hours=windows.hours[keep][:, -bins:],
        minutes=windows.minutes[keep],
        newest_value=windows.newest_value[keep],
        newest_age_ms=windows.newest_age_ms[keep],
        newest_ms=windows.newest_ms[keep],
        phase_ms=windows.phase_ms[keep],
        length=windows.length[keep],
        cases=[windows.cases[i] for i in keep],
    )


def joined(parts: list[Windows]) -> Windows:
    """Windows of several stays, all of the same number of hours."""
    names = ("hours", "minutes", "newest_value", "newest_age_ms", "newest_ms", "phase_ms", "length")
    arrays = {name: np.concatenate([getattr(w, name) for w in parts]) for name in names}
    return Windows(**arrays, cases=[case for w in parts for case in w.cases])


class _Queue:
    """Windows by number of hours, predicted when there are enough of them."""

    def __init__(self, predictor: Predictor, out: dict[str, NDArray[Any]]) -> None:
        self._predictor, self._out = predictor, out
        self._waiting: dict[int, list[tuple[NDArray[np.int64], Windows]]] = {}

    def add(self, row: NDArray[np.int64], windows: Windows) -> None:
        """Rows of a stay, at these places of the result."""
        buckets = np.array(self._predictor.length_buckets)
        kind = np.searchsorted(buckets, windows.length)
        for i in np.unique(kind).tolist():
            keep = np.nonzero(kind == i)[0]
            waiting = self._waiting.setdefault(i, [])
            waiting.append((row[keep], selected(windows, keep, int(buckets[i]))))
            if sum(len(at) for at, _ in waiting) >= _BATCH:
                self._flush(i)

    def end(self) -> None:
        """Predict what is left."""
        for i in list(self._waiting):
            self._flush(i)

    def _flush(self, kind: int) -> None:
        waiting = self._waiting.pop(kind)
        said = self._predictor.predict(joined([windows for _, windows in waiting]))
        at = np.concatenate([row for row, _ in waiting])
        for name in _FIELDS:
            self._out[name][at] = getattr(said, name)


def of_weights(
    cohort: Cohort,
    data: Path,
    cache: Path,
    predictor: Predictor,
    sets: tuple[str, ...],
    part: str = "test",
    limit: int | None = None,
) -> Told:
    """What the weights say of every row of a part of the patients, by the code that serves.

    Args:
        cohort: Of the same sets and limit.
        data: Folder of the recorded sets.
        cache: Folder to keep it in, by the model's version.
        predictor: The model.
        sets: Names of sets.
        part: Of the patients.
        limit: About how many stays of each set.
    """
    mark = f"{_FORM} {predictor.version} {data.resolve()} {sets} {part} {limit}"
    path = cache / f"told-{hashlib.sha256(mark.encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        write(path, _made(cohort, data, predictor, sets, part, limit))
    with np.load(path) as found:
        return Told(**{name: found[name] for name in Told.__slots__})


def _made(
    cohort: Cohort,
    data: Path,
    predictor: Predictor,
    sets: tuple[str, ...],
    part: str,
    limit: int | None,
) -> dict[str, Any]:
    row = np.nonzero(cohort.in_part(part))[0]
    k = len(row)
    out: dict[str, NDArray[Any]] = {
        "p": np.zeros((k, len(RISKS))),
        "low": np.zeros((k, len(RISKS))),
        "high": np.zeros((k, len(RISKS))),
        "positive": np.zeros((k, len(RISKS)), np.bool_),
        "novelty": np.zeros(k),
        "share": np.zeros((k, len(predictor.experts))),
        "driver_signal": np.zeros((k, 5), np.int16),
        "driver_effect": np.zeros((k, 5)),
    }
    queue = _Queue(predictor, out)
    known = zip(cohort.source.tolist(), cohort.record.tolist(), strict=True)
    number = {name: i for i, name in enumerate(known)}
    start = np.searchsorted(cohort.stay[row], np.arange(len(cohort.record)))
    with Progress() as progress:
        for set_name in sets:
            task = progress.add_task(f"{set_name}: predicted", total=None)
            for stay in _of_part(data, set_name, part, limit):
                rows = rows_of(stay)
                first = start[number[SETS.index(set_name), stay.record]]
                queue.add(first + np.arange(len(rows.hour)), rows.windows)
                progress.advance(task)
    queue.end()
    return out | {"row": row}


def _of_part(data: Path, set_name: str, part: str, limit: int | None) -> Any:
    for stay in stays_of(data, set_name, limit):
        if part_of(stay) == part:
            yield stay


def some_stays(data: Path, set_name: str, part: str, count: int) -> list[Stay]:
    """The first stays of a part of a set."""
    assert part in PARTS
    out: list[Stay] = []
    for stay in _of_part(data, set_name, part, None):
        out.append(stay)
        if len(out) == count:
            break
    return out


def of_file(cohort: Cohort, path: Path) -> tuple[Told, dict[str, dict[str, Floats]]]:
    """Out-of-fold predictions of a file, and what rivals in it say of all rows of the cohort.

    Args:
        cohort: The rows they are of.
        path: npz with `set` (name or index into `SETS`), `stay` (record, or a number that counts
            the stays of a set in the reader's order), `hour` and `p` [k, R], NaN where nothing is
            said; `positive` [k, R], alarms by thresholds chosen on others; `label` [k, R] is
            checked where it is there; further arrays named `p_RIVAL` [k, R] are rivals.

    Raises:
        ValueError: A row is not in the cohort, twice in the file, or has another label.
    """
    with np.load(path) as found:
        columns = {name: found[name] for name in found.files}
    try:
        kind, hour = columns["set"], columns["hour"].astype(np.int64)
        names = np.array(SETS)[kind] if kind.dtype.kind in "iu" else kind.astype(np.str_)
        number = _stays(cohort, names, columns["stay"])
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path}: no usable set, stay or hour: {error}") from error
    span = int(max(cohort.hour.max(), hour.max())) + 1
    mine = cohort.stay * span + cohort.hour
    row = np.minimum(np.searchsorted(mine, number * span + hour), len(mine) - 1)
    strange = (number < 0) | (mine[row] != number * span + hour)
    if strange.any():
        raise ValueError(f"{path}: {int(strange.sum())} rows are not of the recorded sets")
    order = np.argsort(row, kind="stable")
    if (np.diff(row[order]) == 0).any():
        raise ValueError(f"{path}: a row stands there twice")
    said = columns.get("label")
    if said is not None and said.shape == (len(row), len(RISKS)):
        both = (said >= 0) & (cohort.labels[row] >= 0)
        if (said[both] != cohort.labels[row][both]).any():
            raise ValueError(f"{path}: labels are not those of the recorded sets")
    if columns["p"].shape != columns.get("positive", np.zeros(0)).shape:
        raise ValueError(f"{path}: p and positive are not of one shape")
    others: dict[str, dict[str, Floats]] = {}
    for name in sorted(n for n in columns if n.startswith("p_")):
        for i, risk in enumerate(RISKS):
            whole = np.full(len(cohort.stay), np.nan)
            whole[row] = columns[name][:, i]
            if np.isfinite(whole).any():
                others.setdefault(name.removeprefix("p_"), {})[risk] = whole
    nothing: Floats = np.zeros((0, len(RISKS)))
    return (
        Told(
            row=row[order],
            p=columns["p"][order].astype(np.float64),
            low=nothing,
            high=nothing,
            positive=columns["positive"][order].astype(np.bool_),
            novelty=np.zeros(0),
            share=nothing,
            driver_signal=np.zeros((0, 5), np.int16),
            driver_effect=np.zeros((0, 5)),
        ),
        others,
    )


def bounded(own: Told, other: Told, calibration: Calibration) -> Told:
    """Out-of-fold probabilities with the bounds that weights give them.

    Args:
        own: Of the weights: the novelty of its rows widens, that of others is not known (NaN) and
            counts as none.
        other: Out of fold.
        calibration: Of the weights.
    """
    novelty = np.full(len(other.row), np.nan)
    at = np.minimum(np.searchsorted(other.row, own.row), len(other.row) - 1)
    here = other.row[at] == own.row
    novelty[at[here]] = own.novelty[here]
    odds = torch.logit(torch.from_numpy(np.clip(other.p, 1e-9, 1 - 1e-9)))
    _, low, high = calibration.bounds(odds, torch.from_numpy(np.nan_to_num(novelty)))
    return replace(other, low=low.numpy(), high=high.numpy(), novelty=novelty)


def _stays(cohort: Cohort, names: NDArray[np.str_], stay: NDArray[Any]) -> NDArray[np.int64]:
    """The cohort's number of each row's stay, -1 where it has none."""
    number = np.full(len(names), -1, np.int64)
    for name in np.unique(names).tolist():
        if name not in SETS:
            continue
        rows = np.nonzero(names == name)[0]
        mine = np.nonzero(cohort.source == SETS.index(name))[0]
        known, at = np.unique(stay[rows], return_inverse=True)
        if stay.dtype.kind in "iu":
            # Numbers say an order only: all stays have to be there.
            if len(known) == len(mine):
                number[rows] = mine[at]
            continue
        of_record = {record: int(i) for i, record in zip(mine, cohort.record[mine], strict=True)}
        number[rows] = np.array([of_record.get(str(record), -1) for record in known])[at]
    return number
