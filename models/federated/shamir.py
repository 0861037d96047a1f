"""Sharing of a 32-byte secret so that any t shares give it and t - 1 say nothing (Shamir 1979)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

PRIME: Final = 2**256 + 297
"""The smallest prime above 2^256: every 32-byte secret is an element of the field."""
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Shares 1 to `count`, 33 bytes each; share i stands at index i - 1.

    Raises:
        ValueError: The secret is not 32 bytes, or not 1 <= threshold <= count.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= count:
        raise ValueError(f"a threshold of {threshold} of {count} shares is not possible")
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial.append(int.from_bytes(secret, "big"))
    shares = []
    for x in range(1, count + 1):
        y = 0
        for coefficient in polynomial:
            y = (y * x + coefficient) % PRIME
        shares.append(y.to_bytes(SHARE_BYTES, "big"))
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret from shares by their number (from 1); all are used.

    Raises:
        ValueError: A share is none, or the shares do not belong together.
    """
    secret = 0
    for at, share in shares.items():
        y = int.from_bytes(share, "big")
        if at < 1 or len(share) != SHARE_BYTES or y >= PRIME:
            raise ValueError("a share is malformed")
        above, below = 1, 1
        for other in shares:
            if other != at:
                above = above * other % PRIME
                below = below * (other - at) % PRIME
        secret = (secret + y * above * pow(below, -1, PRIME)) % PRIME
    if secret >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")
