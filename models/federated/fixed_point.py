"""Updates as whole numbers whose sum over all clients is exact modulo 2^bits.

An entry is rounded to a multiple of `clip / most`, where `most` is so small that no sum of all
clients can leave the range: modular sums are then sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.federated.errors import WrongSize
from models.federated.masks import BLOCK, Masker, Words

Bits = Literal[24, 31, 32]
"""Bits of an entry on the wire."""
_LOW: Final = np.uint32(0xFFFFFF)
_HIGHEST: Final = np.uint32(1 << 31)
_BUT_HIGHEST: Final = np.uint32((1 << 31) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """The numbers of a round.

    Attributes:
        bits: Bits of an entry on the wire: 32 (4 bytes), 31 (31 words carry 32 entries, so that
            a vector with all that goes with it stays below 4 bytes an entry) or 24 (3 bytes).
        clients: Clients that may be summed, at most.
        clip: Bound of an entry's magnitude; what is larger is cut to it.
    """

    bits: Bits = 32
    clients: int
    clip: float

    def __post_init__(self) -> None:
        if self.bits not in (24, 31, 32):
            raise ValueError(f"bits must be 24, 31 or 32, not {self.bits}")
        if not 1 <= self.clients <= 4096:
            raise ValueError(f"clients must lie in [1, 4096], not {self.clients}")
        if not (0 < self.clip < float("inf")):
            raise ValueError(f"clip must be positive, not {self.clip}")

    @property
    def most(self) -> int:
        """Largest magnitude of one client's whole number."""
        return ((1 << (self.bits - 1)) - 1) // self.clients

    @property
    def step(self) -> float:
        """What one unit stands for; an entry's rounding error is half of it."""
        return self.clip / self.most

    def wire_bytes(self, size: int) -> int:
        """Bytes of a vector of `size` entries on the wire."""
        return 4 * (size - size // 32) if self.bits == 31 else size * self.bits // 8

    def encode(
        self,
        values: NDArray[np.float32],
        masker: Masker | None = None,
        out: Words | None = None,
    ) -> Words:
        """Whole numbers modulo 2^32 of finite values, masked in the same pass.

        Args:
            values: [entries].
            masker: Adds masks while a block is in the cache.
            out: Where they go, [entries]; default: new memory.

        Raises:
            ValueError: A value is not finite.
        """
        words = np.empty(len(values), np.uint32) if out is None else out
        scratch = np.empty(min(BLOCK, len(values)), np.float64)
        for start in range(0, len(values), BLOCK):
            part, given = words[start : start + BLOCK], values[start : start + BLOCK]
            if not np.isfinite(given).all():
                raise ValueError("an update must be finite")
            room = scratch[: len(part)]
            # A plain number would leave the product at the 24 bits that the values have.
            np.multiply(given, np.float64(1.0 / self.step), out=room)
            np.rint(room, out=room)
            np.clip(room, -self.most, self.most, out=room)
            part.view(np.int32)[:] = room
            if masker is not None:
                masker(part)
        return words

    def decode(self, words: Words) -> NDArray[np.float64]:
        """The values of a sum's words."""
        return self.whole(words) * np.float64(self.step)

    def whole(self, words: Words) -> NDArray[np.int64]:
        """The whole numbers of a sum's words."""
        shift = np.int32(32 - self.bits)
        return ((words << np.uint32(shift)).view(np.int32) >> shift).astype(np.int64)

    def pack(self, words: Words) -> memoryview:
        """Words as little-endian bytes, the low `bits` of each; the words themselves are used up
        unless they are of 24 bits.
        """
        size = self.wire_bytes(len(words))
        if self.bits != 32:
            words = _carried(words) if self.bits == 31 else _tight(words)
        little = words.astype("<u4", copy=False).view(np.uint8)
        return little[:size].data

    def unpack(self, data: bytes | memoryview, size: int) -> Words:
        """Words of `pack`. Raises WrongSize."""
        if len(data) != self.wire_bytes(size):
            raise WrongSize(f"a vector of {len(data)} bytes, not {self.wire_bytes(size)}")
        if self.bits == 32:
            return np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
        if self.bits == 31:
            return _uncarried(np.frombuffer(data, "<u4").astype(np.uint32, copy=False), size)
        tight = np.zeros(3 * -(-size // 4), "<u4")
        tight.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return _loose(tight.astype(np.uint32, copy=False))[:size]


def _carried(words: Words) -> Words:
    """The low 31 bits of all words in 31 of 32 words, in place: those at the end go, bit by bit,
    into the highest bits of the others.
    """
    last = len(words) // 32
    carriers, gone = words[: len(words) - last], words[len(words) - last :]
    carriers[31 * last :] &= _BUT_HIGHEST
    bit = np.empty(last, np.uint32)
    for i in range(31):
        part = carriers[i * last : (i + 1) * last]
        np.left_shift(gone, np.uint32(31 - i), out=bit)
        bit &= _HIGHEST
        part &= _BUT_HIGHEST
        part |= bit
    return carriers


def _uncarried(carriers: Words, size: int) -> Words:
    """`_carried`, undone, in new memory."""
    last = size // 32
    words = np.empty(size, np.uint32)
    np.bitwise_and(carriers, _BUT_HIGHEST, out=words[: len(carriers)])
    came = words[len(carriers) :]
    came[:] = 0
    bit = np.empty(last, np.uint32)
    for i in range(31):
        np.right_shift(carriers[i * last : (i + 1) * last], np.uint32(31), out=bit)
        bit <<= np.uint32(i)
        came |= bit
    return words


def _tight(words: Words) -> Words:
    """The low 24 bits of four words each in three, the last group filled up with zeros."""
    tight = np.empty((-(-len(words) // 4), 3), np.uint32)
    for start in range(0, len(words), BLOCK):
        part = words[start : start + BLOCK]
        if len(part) % 4:
            part = np.r_[part, np.zeros(-len(part) % 4, np.uint32)]
        a, b, c, d = (np.bitwise_and(part[i::4], _LOW) for i in range(4))
        to = tight[start // 4 : (start + BLOCK) // 4]
        np.bitwise_or(a, b << np.uint32(24), out=to[:, 0])
        np.bitwise_or(b >> np.uint32(8), c << np.uint32(16), out=to[:, 1])
        np.bitwise_or(c >> np.uint32(16), d << np.uint32(8), out=to[:, 2])
    return tight.reshape(-1)


def _loose(tight: Words) -> Words:
    """`_tight`, undone."""
    words = np.empty((len(tight) // 3, 4), np.uint32)
    for start in range(0, len(words), BLOCK // 4):
        to = words[start : start + BLOCK // 4]
        x, y, z = (tight[3 * start + i : 3 * (start + len(to)) : 3] for i in range(3))
        to[:, 0] = x
        np.bitwise_or(x >> np.uint32(24), y << np.uint32(8), out=to[:, 1])
        np.bitwise_or(y >> np.uint32(16), z << np.uint32(16), out=to[:, 2])
        np.right_shift(z, np.uint32(8), out=to[:, 3])
        to &= _LOW
    return words.reshape(-1)
