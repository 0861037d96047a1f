"""Fixed point: what is packed is what comes out, in as many bytes as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.federated.errors import WrongSize
from models.federated.fixed_point import Bits, FixedPoint
from models.federated.masks import BLOCK

BITS = st.sampled_from([24, 31, 32])
SIZES = st.integers(1, 130) | st.integers(BLOCK - 40, BLOCK + 5)


@given(BITS, SIZES, st.integers(0, 2**32 - 1))
def test_packing_keeps_the_low_bits_of_each_word(bits: Bits, size: int, seed: int) -> None:
    """In so many bits, of any number of words; and back."""
    words = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    kept = words & np.uint32(2**bits - 1)
    numbers = FixedPoint(bits=bits, clients=10, clip=1.0)
    packed = bytes(numbers.pack(words.copy()))
    assert len(packed) == numbers.wire_bytes(size)
    assert size * bits <= 8 * len(packed) < size * bits + 32
    np.testing.assert_array_equal(numbers.unpack(packed, size), kept)
    with pytest.raises(WrongSize):
        numbers.unpack(packed, size + 2)


@given(st.sampled_from([24, 32]), SIZES, st.integers(0, 2**32 - 1))
def test_whole_bytes_are_little_endian(bits: Bits, size: int, seed: int) -> None:
    """3 or 4 of each word: whoever writes another client needs no more than that."""
    words = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    plain = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    assert bytes(FixedPoint(bits=bits, clients=10, clip=1.0).pack(words)) == plain


@given(BITS, st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_an_entry_is_off_by_half_a_step_at_most(bits: Bits, clients: int, seed: int) -> None:
    """Also where a step is finer than the values' own 24 bits; the bound itself is kept."""
    values = np.random.default_rng(seed).uniform(-1, 1, 2 * BLOCK).astype(np.float32)
    values[:2] = 1.0, -1.0
    numbers = FixedPoint(bits=bits, clients=clients, clip=1.0)
    said = numbers.decode(numbers.encode(values))
    assert np.abs(said - values).max() <= numbers.step * 0.5000001


def test_bits_are_one_of_three() -> None:
    """Others cannot be packed."""
    with pytest.raises(ValueError, match="24, 31 or 32"):
        FixedPoint(bits=30, clients=10, clip=1.0)  # type: ignore[arg-type]
