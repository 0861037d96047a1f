"""The model as the stream sees it: protocols over numpy arrays, so that neither side imports the
other.

Axes: N cells, B windows of a batch, S signals (`models.signals` order), R risks, E experts, K
drivers, C scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Cells:
    """Measured values on their way into windows, in the order of arrival.

    Attributes:
        slot: Row of the bed in the window store, int32[N].
        signal: Index into `models.signals.SIGNALS`, int16[N].
        ts_ms: Event time, int64[N].
        value: Value within the signal's bounds, float32[N].
    """

    slot: NDArray[np.int32]
    signal: NDArray[np.int16]
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of cells: landed in their bins, superseded by a newer value of the bin, or too
    late.
    """

    landed: int
    superseded: int
    late: int


class WindowStore(Protocol):
    """The windows of one shard's beds, a slot for each. Not thread-safe: owned by the event loop's
    thread.

    The rule of a bin (shared by training and serving): a bin holds the newest value by event time;
    of equal event
    times the one that arrived last. So repeats change nothing and order of arrival does not matter.
    Bins are cut at
    `phase_ms` plus whole multiples of the scale's width, `phase_ms` being the case's admission.
    Null is no value.
    """

    capacity: int

    def grow(self, capacity: int) -> None:
        """Make room for more slots, keeping what is there."""

    def open(self, slot: int, phase_ms: int, case: Any | None) -> None:
        """Empty a slot and start it for a case (an object with the fields of `messages.Case`, or
        None).
        """

    def set_case(self, slot: int, case: Any | None) -> None:
        """Change what is known of the case; the window stays as it is."""

    def recut(self, slot: int, phase_ms: int) -> None:
        """Cut the bins at another phase, from the times of the values that they hold."""

    def close(self, slot: int) -> None:
        """Empty a slot; it may be given to another bed."""

    def touch(self, slots: NDArray[np.int32], ts_ms: NDArray[np.int64]) -> None:
        """Advance the slots' newest event time, also where nothing was measured."""

    def apply(self, cells: Cells) -> Applied:
        """Put cells into their bins; call `touch` with the same messages first."""

    def newest_ms(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Newest event time of each slot, -1 where there is none."""

    def lengths(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Bins of the long scale from the first value in the window to the newest event time, at
        least 1.
        """

    def groups(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Bit set of the signal groups a window holds (bit i: `models.signals.GROUPS[i]`)."""

    def gather(self, slots: NDArray[np.int32], bins: int | None = None) -> Any:
        """Copy the windows of a batch, padded to `bins` or to its longest, for `Model.predict`."""

    def snapshot(self, slot: int) -> bytes:
        """Pack a slot's window; `restore` of it gives bit-identical predictions."""

    def restore(self, slot: int, window: bytes) -> None:
        """Unpack a window into an opened slot. Raises ValueError for anything else."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the model says of a batch; row i is window i of the batch.

    Attributes:
        speaks: False where the model has too little to speak (`warming_up`), bool[B].
        p: Calibrated risk, float64[B, R]; `low`, `high` its bounds.
        positive: Whether the shipped threshold is passed, bool[B, R].
        share: The experts' shares, summing to 1, float64[B, E].
        novelty: 0 (like the training data) to 1, float64[B].
        score: Bedside scores, float64[B, C]; NaN where nothing is known.
        score_missing: Bit set of `Model.score_inputs` each score lacks, uint32[B, C].
        input_value: Newest value of each signal within the window, float32[B, S]; NaN where none.
        input_age_ms: Its age at the newest event time, int64[B, S]; -1 where none.
        driver_signal: Signal indices, strongest first, int16[B, K]; -1 where fewer.
        driver_effect: Signed effect in log-odds, float64[B, K].
        text: The fields `status` to `drivers` of each row's `messages.Prediction` as JSON, without
            the outer braces, from a model that writes them itself; None: they are made from the
            arrays.
    """

    speaks: NDArray[np.bool_]
    p: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    positive: NDArray[np.bool_]
    share: NDArray[np.float64]
    novelty: NDArray[np.float64]
    score: NDArray[np.float64]
    score_missing: NDArray[np.uint32]
    input_value: NDArray[np.float32]
    input_age_ms: NDArray[np.int64]
    driver_signal: NDArray[np.int16]
    driver_effect: NDArray[np.float64]
    text: list[bytes] | None = None


class Model(Protocol):
    """One device's copy of the network with its calibration, scores and drivers."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Names the weights."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda:N`."""

    @property
    def grid_digest(self) -> str:
        """Names the grid of its windows."""

    @property
    def risks(self) -> tuple[str, ...]:
        """Names of the risks, in the order of `Predictions`."""

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the bedside scores."""

    @property
    def score_inputs(self) -> tuple[str, ...]:
        """What a score may lack; bit i of a missing set is input i."""

    @property
    def length_buckets(self) -> tuple[int, ...]:
        """Lengths of history, in bins of the long scale, that batches are padded to; ascending."""

    def store(self, capacity: int) -> WindowStore:
        """A window store on this model's grid."""

    def predict(self, windows: Any) -> Predictions:
        """Predict a gathered batch. Blocks; called in the device's thread.

        A row's numbers are bit-identical in whatever batch it stands: repeats must say the same.
        """
