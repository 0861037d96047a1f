"""Masks of full-strength keys: AES-256-CTR streams added modulo 2^32, block by block.

A block stays in the cache while all masks are added to it; that makes ten masks of a million words
cost about as much as reading them from memory would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

Words = NDArray[np.uint32]

BLOCK: Final = 1 << 16
"""Words of a block: 256 KiB, of which three fit in a core's second-level cache."""
KEY_BYTES: Final = 32
_ZEROS: Final = bytes(4 * BLOCK)
_NONCE: Final = bytes(16)


def derive(secret: bytes, salt: bytes, *info: str) -> bytes:
    """A 32-byte key of a secret for one use (HKDF-SHA256, RFC 5869); `info` names the use."""
    said = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in info)
    return HKDF(SHA256(), KEY_BYTES, salt, b"vitalstream secure sum 1" + said).derive(secret)


class Masker:
    """Adds the streams of some keys to consecutive blocks of a vector, in place.

    A key serves one vector only: its stream starts at counter 0.
    """

    def __init__(self, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
        self._streams = [
            (Cipher(algorithms.AES(key), modes.CTR(_NONCE)).encryptor(), sign)
            for keys, sign in ((plus, np.add), (minus, np.subtract))
            for key in keys
        ]
        # `update_into` asks for a block of the cipher more room than it fills.
        self._room = bytearray(4 * BLOCK + 15)

    def __call__(self, words: Words) -> None:
        """Mask the next words, however many."""
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
