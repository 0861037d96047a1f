"""Normal noise of full-strength randomness, in whole steps, that sites add before they mask.

Each site adds a share so large that a threshold of sites makes up the noise of the sum: it is there
even when a third drops out, and no one, the server included, can take it off.
"""

from __future__ import annotations

import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from models.federated.masks import KEY_BYTES, Words


def normal(count: int) -> NDArray[np.float64]:
    """Standard normal numbers, [count], of an AES-256-CTR stream under a key that is forgotten.

    Box and Muller's transform of uniform numbers of 53 bits: none lies beyond 8.6.
    """
    pairs = -(-count // 2)
    key = secrets.token_bytes(KEY_BYTES)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    drawn = np.frombuffer(stream.update(bytes(16 * pairs)), "<u8").reshape(2, pairs)
    # From 2^-53 to 1: the logarithm is finite.
    first, second = ((drawn >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(first)), 2.0 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def normal_words(count: int, deviation: float) -> Words:
    """Normal numbers of a standard deviation in steps, rounded, modulo 2^32."""
    return np.rint(normal(count) * deviation).astype(np.int64).astype(np.uint32)
