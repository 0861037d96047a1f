"""Bedside scores from what is known: NEWS2, qSOFA, MEWS, SIRS and the shock index.

The tables are versioned data (`tables.json`); each names its variant. Rules shared by all:

- A missing input is named and adds nothing, so a partial score is a lower bound. An input is
  missing where it is not known and could still change the score. A score of which nothing is known
  is NaN.
- No age limit: the newest value in the window counts, and its age stands beside it in a prediction.
- Consciousness comes from `acvpu`; where that is absent, from `gcs`: 15 alert, 9-14 voice, 4-8
  pain, 3 unresponsive. qSOFA's `gcs` comes from `acvpu` where absent: alert is 15, else below.
- `on_oxygen`, where absent, comes from `fio2` above 0.21.
- NEWS2's second SpO2 scale is used only where the case orders it, never inferred. With oxygen
  unknown a saturation of 93 and more adds nothing on it; `on_oxygen` is then named as missing.
- Banded charts (NEWS2, MEWS) speak of whole numbers and tenths of a degree: values are rounded to
  the chart's step, half up, before the band is looked up. Criteria compare the value as it is.

Axes: B windows, S signals (`models.signals`), C scores (`SCORES`).
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.signals import COUNT, INDEX

Floats = NDArray[np.float64]
Bits = NDArray[np.uint32]
_Known = dict[str, Floats]

TABLES: Final[dict[str, Any]] = json.loads(
    resources.files(__package__).joinpath("tables.json").read_text("utf-8")
)
VERSION: Final[str] = TABLES["version"]
SCORES: Final = ("news2", "qsofa", "mews", "sirs", "shock_index")
VARIANTS: Final[dict[str, str]] = {n: TABLES["scores"][n]["variant"] for n in SCORES}
SCORE_INPUTS: Final = (
    "resp",
    "spo2",
    "on_oxygen",
    "sbp",
    "hr",
    "acvpu",
    "temp",
    "gcs",
    "paco2",
    "wbc",
)
"""What a score may lack; bit i of a missing set is input i."""

_BIT: Final = {name: np.uint32(1 << i) for i, name in enumerate(SCORE_INPUTS)}
_COMPARE: Final[dict[str, Callable[[Floats, float], NDArray[np.bool_]]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
AIR: Final = 0.21


def score(
    values_BS: NDArray[np.floating[Any]], spo2_scale_B: NDArray[np.integer[Any]]
) -> tuple[Floats, Bits]:
    """Every score of every window.

    Args:
        values_BS: Newest value of each signal, NaN where none is known.
        spo2_scale_B: 2 where the case orders NEWS2's second scale; anything else is the first.

    Returns:
        The scores, float64[B, C], and the missing inputs of each, uint32[B, C].
    """
    if values_BS.ndim != 2 or values_BS.shape[1] != COUNT:
        raise ValueError(f"values of {values_BS.shape}, expected (B, {COUNT})")
    known = _known(values_BS)
    second_B = np.asarray(spo2_scale_B) == 2
    columns = [_FORMS[name](known, second_B) for name in SCORES]
    return np.stack([c[0] for c in columns], axis=1), np.stack([c[1] for c in columns], axis=1)


def _known(values_BS: NDArray[np.floating[Any]]) -> _Known:
    """Every score input, from its own signal or from the one that stands in for it."""
    known = {name: values_BS[:, INDEX[name]].astype(np.float64) for name in SCORE_INPUTS}
    gcs, acvpu, fio2 = known["gcs"], known["acvpu"], values_BS[:, INDEX["fio2"]].astype(np.float64)
    level = np.select([gcs > 14.5, gcs > 8.5, gcs > 3.5, gcs >= 0], [0.0, 2.0, 3.0, 4.0], np.nan)
    coma = np.select([acvpu < 0.5, acvpu >= 0.5], [15.0, 14.0], np.nan)
    oxygen = np.select([fio2 > AIR, fio2 <= AIR], [1.0, 0.0], np.nan)
    known["acvpu"] = np.where(np.isnan(acvpu), level, acvpu)
    known["gcs"] = np.where(np.isnan(gcs), coma, gcs)
    known["on_oxygen"] = np.where(np.isnan(known["on_oxygen"]), oxygen, known["on_oxygen"])
    return known


class _Part(NamedTuple):
    """One row of a chart, bands in whole steps; `scale` and `oxygen` say where it applies."""

    name: str
    step: float
    limits: NDArray[np.int64]
    points: Floats
    scale: int | None
    oxygen: int | None


def _part(row: dict[str, Any]) -> _Part:
    return _Part(
        row["input"],
        row["step"],
        np.array([round(upper / row["step"]) for upper, _ in row["bands"][:-1]], np.int64),
        np.array([points for _, points in row["bands"]], np.float64),
        row.get("scale"),
        row.get("oxygen"),
    )


def _banded(parts: list[_Part], known: _Known, second_B: NDArray[np.bool_]) -> tuple[Floats, Bits]:
    """Sum of the points of each part's band."""
    size = len(second_B)
    total, any_known = np.zeros(size), np.zeros(size, np.bool_)
    missing = np.zeros(size, np.uint32)
    for name, step, limits, points, scale, oxygen in parts:
        if scale == 2 and not second_B.any():
            continue
        value = known[name]
        absent = np.isnan(value)
        missing |= absent * _BIT[name]
        applies = ~absent
        if scale is not None:
            applies &= second_B == (scale == 2)
        if oxygen is not None:
            # Unknown oxygen reads the chart for air: the lower of the two.
            applies &= (known["on_oxygen"] > 0) == (oxygen == 1)
        # NaN sorts past the last limit; what does not apply is taken out again.
        total += points[np.searchsorted(limits, np.floor(value / step + 0.5))] * applies
        any_known |= applies
    return np.where(any_known, total, np.nan), missing


def _counted(
    criteria: list[list[list[Any]]], known: _Known, second_B: NDArray[np.bool_]
) -> tuple[Floats, Bits]:
    """Number of criteria met; one is met by any of its conditions."""
    size = len(second_B)
    total, any_known = np.zeros(size), np.zeros(size, np.bool_)
    missing = np.zeros(size, np.uint32)
    for conditions in criteria:
        met = np.zeros(size, np.bool_)
        for name, sign, limit in conditions:
            met |= _COMPARE[sign](known[name], limit)
        for name in dict.fromkeys(name for name, _, _ in conditions):
            absent = np.isnan(known[name])
            any_known |= ~absent
            missing |= (absent & ~met) * _BIT[name]
        total += met
    return np.where(any_known, total, np.nan), missing


def _ratio(names: list[str], known: _Known, second_B: NDArray[np.bool_]) -> tuple[Floats, Bits]:
    """The first over the second; of one alone nothing can be said."""
    above, below = known[names[0]], known[names[1]]
    missing = np.zeros(len(second_B), np.uint32)
    for name in names:
        missing |= np.isnan(known[name]) * _BIT[name]
    return above / np.where(below > 0, below, np.nan), missing


def _form(table: dict[str, Any]) -> Callable[[_Known, NDArray[np.bool_]], tuple[Floats, Bits]]:
    if "parts" in table:
        return partial(_banded, [_part(row) for row in table["parts"]])
    if "criteria" in table:
        return partial(_counted, table["criteria"])
    return partial(_ratio, table["ratio"])


_FORMS: Final = {name: _form(TABLES["scores"][name]) for name in SCORES}
