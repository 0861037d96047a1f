"""The serving engine: one call from gathered windows to numbers, outside the interpreter's lock.

A PyTorch network of this size spends its time between its operations, each of which takes and gives
back the interpreter's lock that the event loop wants too. The engine does all of a batch in one
call: features with the bits of `models.features`, then gate, experts, trees, calibration and
drivers. Trees read many rows at once, but no row's numbers depend on those beside it: it has the
same bits in whatever batch it stands.

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
from models.native.forest import BRANCH
from models.native.pack import Answer, Batch, Packed
from models.network import RISKS
from models.window_store import Windows

_TURN: Final = (16, 64)
"""Fewest and most rows of a thread's turn where there are several: trees read up to 64 at once."""
_TOO_LARGE: Final = "serving engine: the model or the windows are larger than it holds"


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
        sizes += [BRANCH.itemsize]
        built = [self._library.vitalstream_sizes(which) for which in range(4)]
        if sizes != built:
            raise OSError(f"serving engine: structures of {built} bytes, expected {sizes}")
        self._threads = threads
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
        turn = min(max(-(-size // self._threads), _TURN[0]), _TURN[1])
        if self._pool is None or size <= turn:
            self._rows(batch, answer, 0, size)
        else:
            turns = [
                self._pool.submit(self._rows, batch, answer, at, min(at + turn, size))
                for at in range(0, size, turn)
            ]
            for done in turns:
                done.result()
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
            raise ValueError(_TOO_LARGE)

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

    def trees(
        self, signals: NDArray[np.float32], minutes: NDArray[np.float32], case: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the trees say of features, [B, R], and without each signal, [B, S, R]."""
        size, risks = len(case), len(RISKS)
        said, without = np.empty((size, risks)), np.empty((size, signals.shape[1], risks))
        arrays: list[NDArray[Any]] = [
            *(np.ascontiguousarray(x, np.float32) for x in (signals, minutes, case)),
            *(said, without),
        ]
        failed = self._library.vitalstream_trees(
            ctypes.byref(self._packed.struct),
            ctypes.c_int32(size),
            *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        )
        if failed:
            raise ValueError(_TOO_LARGE)
        return said, without
