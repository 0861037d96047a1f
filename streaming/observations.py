"""Decoded observation messages of one partition, as a structure of arrays: what decoding hands to
windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """Messages of one partition in the order of their offsets; n messages hold m values in all.

    The values of message i follow those of message i - 1 in `signal` and `value`. Unknown signals
    are not in here; bounds are not checked yet.

    Attributes:
        bed_ids: Bed of each message; equal beds are best the same object (a dictionary look-up
            compares them faster).
        case_ids: Case each message names, or None.
        ts_ms: Event time, int64[n].
        offsets: Offset in the partition, ascending, int64[n].
        broker_ms: The broker's timestamp, int64[n].
        sizes: How many values each message has, int32[n].
        signal: Index into `models.signals.SIGNALS`, int16[m].
        value: The value, NaN for null, float64[m].
    """

    bed_ids: list[str]
    case_ids: list[str | None]
    ts_ms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    broker_ms: NDArray[np.int64]
    sizes: NDArray[np.int32]
    signal: NDArray[np.int16]
    value: NDArray[np.float64]
    n: int = field(init=False)
    """Messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", len(self.bed_ids))
