"""Which hours of a stay train: a few of each, drawn anew by every seed.

Hours of one stay say nearly the same, and long stays would drown short ones. Hours in which sepsis
is labelled, or in which an alarm for it would gain, are rare: all of them train, and the last hour
of every stay.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.network import RISKS
from models.training.cache import Table
from models.training.metrics import gains

PER_STAY: Final = 8


def hours(
    table: Table, seed: int, per_stay: int = PER_STAY
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows that train, ascending int64[m], and how many rows each stands for, float64[m]."""
    n = len(table.stay)
    if not n:
        return np.zeros(0, np.int64), np.zeros(0)
    drawn = np.random.default_rng(seed).random(n)
    order = np.lexsort((drawn, table.stay))
    of = table.stay[order]
    starts = np.r_[0, np.nonzero(np.diff(of))[0] + 1]
    lengths = np.diff(np.r_[starts, n])
    rank, stands = np.empty(n, np.int64), np.empty(n)
    rank[order] = np.arange(n) - np.repeat(starts, lengths)
    stands[order] = np.repeat(np.maximum(lengths / per_stay, 1.0), lengths)
    sepsis = table.labels[:, RISKS.index("sepsis")]
    rare = (sepsis == 1) | (gains(sepsis, table.hour, table.stay) > 0)
    stands[rare] = 1.0
    last = np.r_[table.stay[1:] != table.stay[:-1], True]
    at = np.nonzero((rank < per_stay) | rare | last)[0]
    return at, stands[at]
