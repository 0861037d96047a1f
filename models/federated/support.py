"""Common support: all sites send the same entries of an update, so that masks still cancel.

Which ones is the server's to say, from what is public: the second moment of the sums. The choice is
in the round's material, whose hash every site has signed; none of them can be told another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DRAWN = 0.5
"""Part of the support that is drawn, so that no entry is left out for ever."""


def choose(
    size: int, keep: float, number: int, second: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Entries of a round, ascending: the largest of the second moment, and some that are drawn."""
    count = max(1, round(keep * size))
    rng = np.random.default_rng((number, size))
    top = 0 if second is None or not second.any() else round(count * (1 - _DRAWN))
    chosen = np.zeros(size, np.bool_)
    if second is not None and top:
        chosen[np.argpartition(-second, top - 1)[:top]] = True
    rest = np.nonzero(~chosen)[0]
    chosen[rng.choice(rest, count - top, replace=False)] = True
    return np.nonzero(chosen)[0]


def pack(chosen: NDArray[np.int64], size: int) -> bytes:
    """A bit an entry."""
    bits = np.zeros(size, np.bool_)
    bits[chosen] = True
    return np.packbits(bits).tobytes()


def unpack(data: bytes, size: int) -> NDArray[np.int64]:
    """Entries of `pack`. Raises ValueError for a string of another length."""
    if len(data) != -(-size // 8):
        raise ValueError(f"{len(data)} bytes of support for {size} parameters")
    return np.nonzero(np.unpackbits(np.frombuffer(data, np.uint8), count=size))[0]
