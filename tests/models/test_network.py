"""Memories and features: exact, whatever they are padded with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.features import ABSENT, D, Features
from models.layers import decays, memories
from models.signals import COUNT, VITALS


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**31))
def test_bins_before_the_first_change_no_bit(bins: int, before: int, seed: int) -> None:
    """A memory is a sum over the window's bins, however many zeros come before them."""
    x = torch.randn(2, bins, 3, generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([torch.zeros(2, before, 3), x], 1)
    decay = decays((2.0, 8.0))
    assert torch.equal(memories(padded, decay), memories(x, decay))


def test_a_memory_is_the_decayed_sum() -> None:
    """Against the sum as it is defined, in float64."""
    x = torch.randn(4, 72, 5)
    decay = decays((2.0, 32.0)).double()
    ages = torch.arange(71, -1, -1).double()
    want = torch.einsum("kt,btc->bkc", decay.unsqueeze(1) ** ages, x.double())
    torch.testing.assert_close(memories(x, decay.float()).double(), want, atol=1e-4, rtol=1e-4)


def test_what_was_never_measured_is_a_mask_and_an_age() -> None:
    """Not a value, and the reference that drivers are measured against."""
    nothing = np.nan
    signals, minutes = Features()(
        torch.full((1, 4, COUNT), nothing),
        torch.full((1, 60, len(VITALS)), nothing),
        torch.full((1, COUNT), nothing),
        torch.full((1, COUNT), -1.0),
    )
    assert torch.equal(signals[0], torch.tensor(ABSENT).expand(COUNT, D))
    assert not minutes.any()


@pytest.mark.parametrize("often", [1, 60])
def test_a_constant_says_the_same_at_any_rate(often: int) -> None:
    """One value an hour and one a minute of the same number have the same features."""
    hours = torch.full((1, 4, COUNT), 80.0)
    minutes = torch.full((1, 60, len(VITALS)), float("nan"))
    minutes[:, 60 - often :] = 80.0
    both = Features()(hours, minutes, hours[:, -1], torch.zeros(1, COUNT))
    full = Features()(hours, torch.full_like(minutes, 80.0), hours[:, -1], torch.zeros(1, COUNT))
    assert torch.equal(both[0], full[0]) and torch.equal(both[1], full[1])
