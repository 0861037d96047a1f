"""Hospitals' weighted gradients are the gradient over all of their rows, whoever labels what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from models.features import F
from models.federated import lesson
from models.network import RISKS, Network
from models.training.cache import SETS, Table


def _gradient(network: Network, table: Table, weight: torch.Tensor | None) -> torch.Tensor:
    at = np.arange(len(table.stay))
    network.zero_grad()
    lesson.of_rows(network, lesson.inputs(table, at), table, at, weight).backward()
    return torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None])


def _sites(few_rows: Callable[[int, int], Table]) -> tuple[Table, list[Table]]:
    """Three sites; the first labels no mortality, the second no sepsis; one has diagnoses, two know
    specialties.
    """
    table = few_rows(400, 3)
    site = np.random.default_rng(0).integers(0, 3, 400)
    table.labels[site == 0, RISKS.index("mortality")] = -1
    table.labels[site == 1, RISKS.index("sepsis")] = -1
    table.source[:] = np.where(site == 2, SETS.index("eicu-demo"), 0)
    table.expert[site > 0] = np.random.default_rng(1).integers(0, 4, int((site > 0).sum()))
    return table, [table.select(site == number) for number in range(3)]


def test_balanced_gradients_of_hospitals_add_up_to_the_pooled_gradient(
    few_rows: Callable[[int, int], Table],
) -> None:
    """Weighted by rows, they equal the gradient of the mean loss over all labelled rows."""
    torch.manual_seed(0)
    network = Network()
    table, sites = _sites(few_rows)
    counts = np.sum([lesson.count(site) for site in sites], 0)
    assert counts.tolist() == lesson.count(table).tolist()
    weight = lesson.balance(counts.tolist())
    parts = [len(s.stay) / len(table.stay) * _gradient(network, s, weight) for s in sites]
    pooled = _gradient(network, table, None)
    torch.testing.assert_close(torch.stack(parts).sum(0), pooled, rtol=1e-4, atol=1e-6)
    unbalanced = [len(s.stay) / len(table.stay) * _gradient(network, s, None) for s in sites]
    assert (torch.stack(unbalanced).sum(0) - pooled).norm() > 0.05 * pooled.norm()


def test_what_nobody_labels_weighs_nothing() -> None:
    """No division by zero, and a base rate for the start all the same."""
    counts = [100, 100, 0, 50, 0, 10, 0, 25, 0, 0, 20]
    assert lesson.balance(counts).tolist() == [1.0, 0.0, 2.0, 0.0, 0.0, 5.0]
    torch.testing.assert_close(lesson.rates(counts), torch.tensor([0.1, 0.1, 0.5, 0.1]))


def test_the_gate_is_held_back_from_the_signals_and_not_from_the_case() -> None:
    """Unit, problems and the like may weigh what they do."""
    network = Network()
    lesson.restraint(network).backward()
    grad = network.gate.first.weight.grad
    assert grad is not None
    assert (grad[:, :-F] != 0).all() and not grad[:, -F:].any()
