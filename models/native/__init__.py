"""The serving engine: one call from gathered windows to numbers, outside the interpreter's lock.

A PyTorch network of this size spends its time between its operations, each of which takes and gives
back the interpreter's lock that the event loop wants too. The engine does all of a batch in one
call: features with the bits of `models.features`, then gate, experts, trees, calibration and
drivers. It works a row out by itself, so a row has the same bits in whatever batch it stands.

Axes: B windows, S signals, V vitals, D and E their features, F features of the case, R risks.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Calibrated
from models.explain import DRIVERS
from models.features import D, E
from models.moe import EXPERTS
from models.native.build import expected
from models.native.pack import Answer, Batch, Packed
from models.network import RISKS
from models.window_store import Windows

_AT_ONCE: Final = 16
"""Rows of a thread's turn where there are several."""


def available() -> bool:
    """Whether the library was built for this edition and machine."""
    return expected().exists()


class Native:
    """A model packed for the engine.

    Args:
        model: On the CPU, not trained any more; its tensors are copied.
        threads: Threads that share a batch.

    Raises:
        OSError: The library is not there.
    """

    def __init__(self, model: Calibrated, threads: int = 1) -> None:
        self._library = ctypes.CDLL(str(expected()))
        self._library.vitalstream_sizes.restype = ctypes.c_int64
        self._packed = Packed(model)
        sizes = [ctypes.sizeof(kind) for kind in (type(self._packed.struct), Batch, Answer)]
        built = [self._library.vitalstream_sizes(which) for which in range(3)]
        if sizes != built:
            raise OSError(f"serving engine: structures of {built} bytes, expected {sizes}")
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def predict(self, windows: Windows, case: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Numbers of every row, by the names of `models.predictor.Predictions`, and `log_odds`.

        Args:
            windows: A gathered batch.
            case: Features of the case, float32[B, F].
        """
        size, risks = len(case), len(RISKS)
        out: dict[str, NDArray[Any]] = {
            "p": np.empty((size, risks)),
            "low": np.empty((size, risks)),
            "high": np.empty((size, risks)),
            "positive": np.empty((size, risks), np.bool_),
            "share": np.empty((size, len(EXPERTS))),
            "novelty": np.empty(size),
            "driver_signal": np.empty((size, DRIVERS), np.int16),
            "driver_effect": np.empty((size, DRIVERS)),
            "log_odds": np.empty((size, risks)),
        }
        answer = Answer(*(array.ctypes.data for array in out.values()))
        batch, kept = Batch.of(windows, case)
        if self._pool is None or size <= _AT_ONCE:
            self._rows(batch, answer, 0, size)
        else:
            turns = [
                self._pool.submit(self._rows, batch, answer, at, min(at + _AT_ONCE, size))
                for at in range(0, size, _AT_ONCE)
            ]
            for turn in turns:
                turn.result()
        del kept
        return out

    def _rows(self, batch: Batch, answer: Answer, begin: int, end: int) -> None:
        # ctypes gives the interpreter's lock back for the call.
        failed = self._library.vitalstream_predict(
            ctypes.byref(self._packed.struct),
            ctypes.byref(batch),
            ctypes.byref(answer),
            ctypes.c_int32(begin),
            ctypes.c_int32(end),
        )
        if failed:
            raise ValueError("serving engine: the model or the windows are larger than it holds")

    def features(
        self, windows: Windows, case: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features of signals [B, S, D] and of the vitals' minutes [B, V, E]."""
        batch, kept = Batch.of(windows, case)
        struct = self._packed.struct
        signals = np.empty((len(case), struct.signals, D), np.float32)
        minutes = np.empty((len(case), struct.vitals, E), np.float32)
        self._library.vitalstream_features(
            ctypes.byref(struct),
            ctypes.byref(batch),
            ctypes.c_void_p(signals.ctypes.data),
            ctypes.c_void_p(minutes.ctypes.data),
        )
        del kept
        return signals, minutes
