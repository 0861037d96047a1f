"""The mixture taken apart out of fold, beside a dense network of its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.evaluation.ablation import DENSE, WAYS
from models.features import D, E, F, Features, V
from models.network import RISKS, Network
from models.signals import COUNT
from models.training import cross, gate
from models.training.ablation import out_of_fold
from models.training.cache import Table
from models.training.dense import like
from models.training.fit import Plan
from models.training.forest import Recipe

SMALL = {risk: (Recipe(trees=6, leaves=7, least=10),) for risk in RISKS}


def test_a_dense_network_is_as_large_as_the_mixture() -> None:
    """What it says depends on as many parameters, within one hidden unit's."""
    mixture = Network()
    dense = like(mixture)
    wanted = sum(x.numel() for x in mixture.parameters())
    assert 0.995 * wanted < dense.used <= wanted
    torch.manual_seed(1)
    inputs = (torch.randn(3, *shape) for shape in ((COUNT, D), (V, E), (F,)))
    said = dense(*inputs)
    said.logits.sum().backward()
    touched = sum(int((x.grad != 0).sum()) for x in dense.parameters() if x.grad is not None)
    assert 0.9 * dense.used < touched <= dense.used
    assert said.share.tolist() == [[1, 0, 0, 0]] * 3 and not said.gate.requires_grad


def test_every_way_is_told_of_folds_not_seen(
    table: Table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of the folds that are asked for, each way by blend and by the network alone."""
    monkeypatch.setattr(cross, "SHIPPED", SMALL)
    monkeypatch.setattr(gate, "_STEPS", 3)
    threads = torch.get_num_threads()
    said = out_of_fold(table, Features(), Plan(epochs=1, seed=1), tmp_path, [0, 2])
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    assert len(said["hour"]) == int(np.isin(table.fold, [0, 2]).sum())
    names = {
        n
        for way in ("", DENSE, *WAYS)
        for n in (f"_{way}" if way else "", "_network" + (f"_{way}" if way else ""))
    }
    assert {f"p{name}" for name in names} <= said.keys()
    assert all(np.isfinite(said[f"p{name}"]).all() for name in names)
    assert not np.array_equal(said["p"], said["p_dense"])
    assert said["positive"].shape == said["p"].shape
