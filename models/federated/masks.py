"""Masks of full-strength keys: AES-256 in counter mode, added modulo 2^32, block by block.

A block stays in the cache while all masks are added to it; that makes ten masks of a million words
cost about as much as reading them from memory would.

The stream is that of GCM under a nonce of zeros, whose first block has counter 2 (NIST SP 800-38D,
section 7.1). OpenSSL makes it as GCM with wider instructions than as CTR where the processor has
them, and more slowly where not, for it hashes what it made; so each process takes the faster one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

Words = NDArray[np.uint32]

PROTOCOL: Final = 2
"""Of secure sums: grows with what masks, shares, signatures or vectors are made of."""
LABEL: Final = f"vitalstream secure sum {PROTOCOL}"
BLOCK: Final = 1 << 16
"""Words of a block: 256 KiB, of which three fit in a core's second-level cache."""
KEY_BYTES: Final = 32
_ZEROS: Final = bytes(4 * BLOCK)
_COUNTER: Final = bytes(15) + b"\x02"
_NONCE: Final = bytes(12)
_MOST: Final = (2**32 - 2) * 4
"""Words of a stream: the counter has 32 bits."""
_TRIALS: Final = 3


def _ctr(key: bytes) -> Any:
    return Cipher(algorithms.AES(key), modes.CTR(_COUNTER)).encryptor()


def _gcm(key: bytes) -> Any:
    return Cipher(algorithms.AES(key), modes.GCM(_NONCE)).encryptor()


STREAMS: Final[tuple[Callable[[bytes], Any], ...]] = (_ctr, _gcm)
"""Two ways to the same stream."""


@cache
def _faster() -> Callable[[bytes], Any]:
    """The way that takes this processor less time for a block."""
    room = bytearray(4 * BLOCK + 15)

    def took(way: Callable[[bytes], Any]) -> float:
        encryptor, least = way(bytes(KEY_BYTES)), float("inf")
        for _ in range(_TRIALS):
            start = time.perf_counter()
            encryptor.update_into(_ZEROS, room)
            least = min(least, time.perf_counter() - start)
        return least

    return min(STREAMS, key=took)


def derive(secret: bytes, salt: bytes, *info: str) -> bytes:
    """A 32-byte key of a secret for one use (HKDF-SHA256, RFC 5869); `info` names the use."""
    said = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in info)
    return HKDF(SHA256(), KEY_BYTES, salt, LABEL.encode() + said).derive(secret)


class Masker:
    """Adds the streams of some keys to consecutive blocks of a vector, in place.

    A key serves one vector only: its stream starts at the beginning.

    Args:
        plus: Keys of the streams that are added.
        minus: Keys of those that are taken away.
        way: One of `STREAMS`; default: the faster one here.
    """

    def __init__(
        self,
        plus: Sequence[bytes],
        minus: Sequence[bytes],
        way: Callable[[bytes], Any] | None = None,
    ) -> None:
        way = way or _faster()
        self._streams = [
            (way(key), sign)
            for keys, sign in ((plus, np.add), (minus, np.subtract))
            for key in keys
        ]
        self._left = _MOST
        # `update_into` asks for a block of the cipher more room than it fills.
        self._room = bytearray(4 * BLOCK + 15)

    def __call__(self, words: Words) -> None:
        """Mask the next words. Raises ValueError past the end of a stream, 64 GiB."""
        self._left -= len(words)
        if self._left < 0:
            raise ValueError(f"a mask has {_MOST} words")
        for start in range(0, len(words), BLOCK):
            part = words[start : start + BLOCK]
            zeros = memoryview(_ZEROS)[: 4 * len(part)]
            stream = np.frombuffer(self._room, "<u4", len(part))
            for encryptor, add in self._streams:
                encryptor.update_into(zeros, self._room)
                add(part, stream, out=part)


def mask(words: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the masks of `plus` and take away those of `minus`, modulo 2^32, in place."""
    Masker(plus, minus)(words)
