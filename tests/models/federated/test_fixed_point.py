"""Fixed point: what is packed is what comes out, in as many bytes as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.federated.errors import WrongSize
from models.federated.fixed_point import FixedPoint
from models.federated.masks import BLOCK

SIZES = st.integers(1, 30) | st.integers(BLOCK - 5, BLOCK + 5)


@given(st.sampled_from([24, 32]), SIZES, st.integers(0, 2**32 - 1))
def test_packing_keeps_the_low_bytes_of_each_word(bits, size: int, seed: int) -> None:
    """Little-endian, in 3 or 4 bytes a word, of any number of words; and back."""
    words = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    numbers = FixedPoint(bits=bits, clients=10, clip=1.0)
    packed = numbers.pack(words)
    plain = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : bits // 8]
    assert bytes(packed) == plain.tobytes()
    assert len(packed) == numbers.wire_bytes(size) == size * bits // 8
    np.testing.assert_array_equal(numbers.unpack(packed, size), words & np.uint32(2**bits - 1))
    with pytest.raises(WrongSize):
        numbers.unpack(packed, size + 1)
