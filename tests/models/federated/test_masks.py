"""Masks: two ways to one stream, in blocks of any size, that come off again."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from models.federated import masks
from models.federated.masks import BLOCK, STREAMS, Masker

KEYS = [bytes([i]) * 32 for i in range(4)]


@given(st.lists(st.integers(1, 3000) | st.just(BLOCK), min_size=1, max_size=5))
def test_both_ways_give_the_stream_of_gcm(parts: list[int]) -> None:
    """That of the library's own sealing of zeros, however a vector comes in parts: a hospital may
    take one way and the server the other.
    """
    size = sum(parts)
    sealed = AESGCM(KEYS[0]).encrypt(bytes(12), bytes(4 * size), None)
    want = np.frombuffer(sealed, "<u4", size)
    for way in STREAMS:
        words, masker, start = np.zeros(size, np.uint32), Masker([KEYS[0]], [], way), 0
        for part in parts:
            masker(words[start : start + part])
            start += part
        np.testing.assert_array_equal(words, want)


def test_what_is_added_comes_off() -> None:
    """Added by one, taken away by the other."""
    words = np.arange(5000, dtype=np.uint32)
    masks.mask(words, KEYS[:2], KEYS[2:])
    assert (words != np.arange(5000)).mean() > 0.99
    masks.mask(words, KEYS[2:], KEYS[:2])
    np.testing.assert_array_equal(words, np.arange(5000))


def test_a_stream_that_would_begin_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counter has 32 bits; past them masks would repeat."""
    monkeypatch.setattr(masks, "_MOST", 100)
    masker = Masker(KEYS[:1], [])
    masker(np.zeros(100, np.uint32))
    with pytest.raises(ValueError, match="100 words"):
        masker(np.zeros(1, np.uint32))
