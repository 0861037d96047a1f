"""Patients drawn again and again: intervals for anything that is a function of counts.

What is said of the rows is put into bins by rank; positives and negatives are counted by bin, for
the patients as they are and for every draw at once. Rows of a patient stay together. The same draws
serve all that is compared, so differences are paired.

Axes: P patients, n rows, J bins in ascending order, K draws; column 0 is the patients as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
DRAWS: Final = 200
SEED: Final = 11
_EXACT: Final = 3000
"""Up to so many distinct values each is a bin of its own."""
_GRID: Final = np.unique(np.r_[np.linspace(0, 1, 401), 1 - np.geomspace(1e-6, 0.2, 600)])


class Draws:
    """How often each patient is there: once, and in each of K draws.

    Args:
        patient: Number of each row's patient, any integers.
        count: K.
        seed: The same seed and patients give the same draws.
    """

    def __init__(self, patient: NDArray[np.int64], count: int = DRAWS, seed: int = SEED) -> None:
        known, at = np.unique(patient, return_inverse=True)
        self.at: NDArray[np.int64] = at.astype(np.int64)
        self.patients = len(known)
        rng = np.random.default_rng(seed)
        share = np.full(self.patients, 1 / self.patients)
        times = rng.multinomial(self.patients, share, count)
        once = np.ones((self.patients, 1), np.float32)
        self.times: NDArray[np.float32] = np.hstack([once, times.T.astype(np.float32)])

    def sums(self, value: NDArray[Any]) -> Floats:
        """Sum over rows of a value of each row, [K + 1]."""
        each = np.zeros(self.patients)
        each += np.bincount(self.at, np.asarray(value, np.float64), self.patients)
        total: Floats = each @ self.times.astype(np.float64)
        return total


@dataclass(frozen=True, slots=True)
class Counts:
    """Positives and negatives by bin.

    Attributes:
        level: Mean of what is said in each bin, ascending, [J].
        positive: [J, K + 1]; negative the same.
    """

    level: Floats
    positive: Floats
    negative: Floats

    @classmethod
    def of(cls, said: Floats, label: NDArray[np.bool_], draws: Draws) -> Counts:
        """Count rows; `said` ranks them, NaN is below all."""
        said = np.where(np.isnan(said), -np.inf, said)
        known = np.unique(said)
        if len(known) > _EXACT:
            known = np.unique(np.quantile(said, _GRID, method="inverted_cdf"))
        at = np.searchsorted(known, said)
        bins = len(known)
        size = np.bincount(at, minlength=bins)
        total = np.bincount(at, np.where(np.isinf(said), 0.0, said), bins)
        level = total / np.maximum(size, 1)
        cells = []
        for mine in (label, ~label):
            ones = np.ones(int(mine.sum()), np.float32)
            count = csr_array((ones, (at[mine], draws.at[mine])), shape=(bins, draws.patients))
            cells.append(np.asarray(count @ draws.times, np.float64))
        keep = size > 0
        return cls(level[keep], cells[0][keep], cells[1][keep])

    @property
    def both(self) -> Floats:
        """All rows by bin, [J, K + 1]."""
        return self.positive + self.negative

    def above(self) -> tuple[Floats, Floats]:
        """Positives and negatives at or above each bin, [J, K + 1] each."""
        return tuple(np.cumsum(x[::-1], 0)[::-1] for x in (self.positive, self.negative))  # type: ignore[return-value]


def interval(value: Floats, digits: int = 4) -> dict[str, float | None]:
    """The value with its 95 % interval by the draws' percentiles, rounded."""
    rest = value[1:][np.isfinite(value[1:])]
    if not np.isfinite(value[0]) or not len(rest):
        return {"value": None, "low": None, "high": None}
    low, high = np.quantile(rest, [0.025, 0.975])
    said = {"value": value[0], "low": low, "high": high}
    return {name: round(float(x), digits) for name, x in said.items()}
