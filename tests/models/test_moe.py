"""The mixture: shares, and what novelty does to them."""

from __future__ import annotations

import torch

from models.moe import ALWAYS, EXPERTS, Gate, interpolate, shares


def test_the_general_expert_is_always_on() -> None:
    """Shares sum to 1 whatever the gate says."""
    share = shares(torch.randn(100, 4) * 20)
    assert torch.allclose(share.sum(1), torch.ones(100))
    assert (share[:, 0] >= ALWAYS).all() and (share >= 0).all()


def test_novelty_routes_to_the_rare_disease_expert() -> None:
    """Its share rises with novelty, all else equal."""
    torch.manual_seed(0)
    gate, slow = Gate(10, 8), torch.randn(20, 10)
    rare = EXPERTS.index("rare_disease")
    known = shares(gate(slow, torch.zeros(20)))[:, rare]
    novel = shares(gate(slow, torch.ones(20)))[:, rare]
    assert (novel > known).all()


def test_interpolation_goes_through_its_knots_and_stays_outside() -> None:
    """Constant beyond the ends."""
    knots, levels = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 0.0])
    x = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 9.0])
    assert interpolate(x, knots, levels).tolist() == [0, 0, 0.5, 1, 0.5, 0, 0]
