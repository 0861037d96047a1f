"""Bedside scores by the engine: the tables of `models.scores` in the form of its structures.

Axes: B windows, S signals, C scores.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.native.build import expected
from models.scores import AIR, SCORE_INPUTS, SCORES, TABLES
from models.signals import COUNT, INDEX

_pointer = ctypes.c_void_p
_SIGNS: Final = ("<", "<=", ">", ">=")
_SCORE: Final = np.dtype([("kind", "<i4"), ("begin", "<i4"), ("end", "<i4")])
_PART: Final = np.dtype(
    [("step", "<f8"), *((name, "<i4") for name in ("input", "limits", "bands", "scale", "oxygen"))],
    align=True,
)
_CRITERION: Final = np.dtype([("begin", "<i4"), ("end", "<i4")])
_CONDITION: Final = np.dtype([("limit", "<f8"), ("input", "<i4"), ("sign", "<i4")])


class _Charts(ctypes.Structure):
    """`vitalstream::Charts`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("scores", "inputs", "signals")),
        *((name, ctypes.c_int32) for name in ("acvpu", "gcs", "oxygen", "fio2")),
        ("air", ctypes.c_double),
        *((name, _pointer) for name in ("signal", "score", "part", "limit", "points")),
        *((name, _pointer) for name in ("criterion", "condition")),
    )


class Charts:
    """`models.scores.score`, by the engine.

    Raises:
        OSError: The library is not there.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(expected()))
        self._library.vitalstream_score_sizes.restype = ctypes.c_int64
        score, part, limit, points, criterion, condition = _compiled()
        arrays = {
            "signal": np.array([INDEX[name] for name in SCORE_INPUTS], np.int32),
            "score": np.array(score, _SCORE),
            "part": np.array(part, _PART),
            "limit": np.array(limit, np.int64),
            "points": np.array(points, np.float64),
            "criterion": np.array(criterion, _CRITERION),
            "condition": np.array(condition, _CONDITION),
        }
        sizes = [ctypes.sizeof(_Charts)]
        sizes += [arrays[n].itemsize for n in ("score", "part", "criterion", "condition")]
        built = [self._library.vitalstream_score_sizes(which) for which in range(5)]
        if sizes != built:
            raise OSError(f"serving engine: structures of {built} bytes, expected {sizes}")
        self._kept = arrays
        at = {name: i for i, name in enumerate(SCORE_INPUTS)}
        self._charts = _Charts(
            *(len(SCORES), len(SCORE_INPUTS), COUNT),
            *(at["acvpu"], at["gcs"], at["on_oxygen"], INDEX["fio2"]),
            AIR,
            *(array.ctypes.data for array in arrays.values()),
        )

    def __call__(
        self, values_BS: NDArray[np.float32], spo2_scale_B: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
        """Scores float64[B, C], and the missing inputs of each, uint32[B, C]."""
        values = np.ascontiguousarray(values_BS, np.float32)
        if values.ndim != 2 or values.shape[1] != COUNT:
            raise ValueError(f"values of {values.shape}, expected (B, {COUNT})")
        second = np.ascontiguousarray(spo2_scale_B == 2, np.uint8)
        out = np.empty((len(values), len(SCORES)))
        missing = np.empty(out.shape, np.uint32)
        self._library.vitalstream_scores(
            ctypes.byref(self._charts),
            *(_pointer(array.ctypes.data) for array in (values, second)),
            ctypes.c_int32(len(values)),
            *(_pointer(array.ctypes.data) for array in (out, missing)),
        )
        return out, missing


def _compiled() -> tuple[list[Any], ...]:
    """Scores, parts, limits, points, criteria and conditions as rows of the structures."""
    at = {name: i for i, name in enumerate(SCORE_INPUTS)}
    score: list[Any] = []
    part: list[Any] = []
    limit: list[int] = []
    points: list[float] = []
    criterion: list[Any] = []
    condition: list[Any] = []
    for name in SCORES:
        table = TABLES["scores"][name]
        if "parts" in table:
            begin = len(part)
            for row in table["parts"]:
                bands = row["bands"]
                part.append(
                    (
                        row["step"],
                        at[row["input"]],
                        len(limit),
                        len(bands),
                        row.get("scale", 0),
                        row.get("oxygen", -1),
                    )
                )
                limit += [round(upper / row["step"]) for upper, _ in bands[:-1]]
                points += [float(worth) for _, worth in bands]
            score.append((0, begin, len(part)))
        elif "criteria" in table:
            begin = len(criterion)
            for conditions in table["criteria"]:
                first = len(condition)
                condition += [
                    (float(bound), at[name], _SIGNS.index(sign)) for name, sign, bound in conditions
                ]
                criterion.append((first, len(condition)))
            score.append((1, begin, len(criterion)))
        else:
            above, below = table["ratio"]
            score.append((2, at[above], at[below]))
    return score, part, limit, points, criterion, condition
