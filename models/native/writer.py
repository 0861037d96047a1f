"""A batch's numbers as JSON, written by the engine outside the interpreter's lock.

A prediction has about a hundred numbers; as Python objects they cost the event loop more than
everything else it does for a sample. The text is the part of a `streaming.messages.Prediction` from
`status` to `drivers`, without the outer braces; a test holds it against the message's type.

Axes: B rows.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.explain import DRIVERS
from models.moe import EXPERTS
from models.native.build import expected
from models.network import RISKS
from models.scores import SCORE_INPUTS, SCORES
from models.signals import NAMES

_pointer = ctypes.c_void_p
_KINDS: Final = {
    "speaks": np.bool_,
    "p": np.float64,
    "low": np.float64,
    "high": np.float64,
    "positive": np.bool_,
    "share": np.float64,
    "novelty": np.float64,
    "score": np.float64,
    "score_missing": np.uint32,
    "input_value": np.float32,
    "input_age_ms": np.int64,
    "driver_signal": np.int16,
    "driver_effect": np.float64,
}
"""Fields of `models.predictor.Predictions`, in the order of `vitalstream::Said`."""


class _Names(ctypes.Structure):
    """`vitalstream::Names`."""

    _fields_ = (("text", _pointer), ("at", _pointer))


class _Wording(ctypes.Structure):
    """`vitalstream::Wording`."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("risks", "experts", "scores", "score_inputs", "signals", "drivers")
        ),
        *(
            (name, _Names)
            for name in ("risk", "expert", "score", "score_input", "signal", "signal_value")
        ),
    )


class _Said(ctypes.Structure):
    """`vitalstream::Said`."""

    _fields_ = tuple((name, _pointer) for name in _KINDS)


class Writer:
    """Writes what the model says of a batch.

    Raises:
        OSError: The library is not there.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(expected()))
        self._library.vitalstream_write_sizes.restype = ctypes.c_int64
        self._library.vitalstream_write_room.restype = ctypes.c_int64
        sizes = [ctypes.sizeof(_Wording), ctypes.sizeof(_Said)]
        built = [self._library.vitalstream_write_sizes(which) for which in range(2)]
        if sizes != built:
            raise OSError(f"serving engine: structures of {built} bytes, expected {sizes}")
        self._kept: list[Any] = []
        self._wording = _Wording(
            *(len(RISKS), len(EXPERTS), len(SCORES), len(SCORE_INPUTS), len(NAMES), DRIVERS),
            *(self._names(names, ":") for names in (RISKS, EXPERTS, SCORES)),
            *(self._names(SCORE_INPUTS, ""), self._names(NAMES, ":"), self._names(NAMES, "")),
        )
        self._room = self._library.vitalstream_write_room(ctypes.byref(self._wording))

    def _names(self, names: Sequence[str], after: str) -> _Names:
        words = [f"{json.dumps(name)}{after}".encode() for name in names]
        text = ctypes.create_string_buffer(b"".join(words))
        at = np.cumsum([0, *map(len, words)]).astype(np.int32)
        self._kept += [text, at]
        return _Names(ctypes.addressof(text), at.ctypes.data)

    def __call__(self, said: dict[str, NDArray[Any]]) -> list[bytes]:
        """One text for each row.

        Args:
            said: Arrays by the names of `models.predictor.Predictions`.
        """
        kept: list[NDArray[Any]] = [
            np.ascontiguousarray(said[name], kind) for name, kind in _KINDS.items()
        ]
        size = len(kept[0])
        out = np.empty(size * self._room, np.uint8)
        end = np.empty(size, np.int64)
        self._library.vitalstream_write(
            ctypes.byref(self._wording),
            ctypes.byref(_Said(*(array.ctypes.data for array in kept))),
            ctypes.c_int32(size),
            _pointer(out.ctypes.data),
            _pointer(end.ctypes.data),
        )
        ends: list[int] = end.tolist()
        text = out[: ends[-1] if ends else 0].tobytes()
        return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
