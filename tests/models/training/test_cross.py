"""Cross-validation: nobody is told of by what has seen them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.calibration import Calibration
from models.features import Features
from models.network import RISKS
from models.training import cross, gate, metrics
from models.training.blend import said, settle, weights_of
from models.training.cache import Table
from models.training.cross import Crossing, Told, crossed, measured
from models.training.fit import Plan
from models.training.forest import Recipe
from models.trees import KINDS, voice, which_voice

R = len(RISKS)
SMALL = {risk: (Recipe(trees=6, leaves=7, least=10, features=0.6),) for risk in RISKS}
SMALL["sepsis"] += (Recipe(trees=5, leaves=4, least=10, hospitals=True),)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch):
    """Small forests and a short lesson of the gate; leaves torch as it was."""
    monkeypatch.setattr(cross, "SHIPPED", SMALL)
    monkeypatch.setattr(gate, "_STEPS", 3)
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def crossing(table: Table, work: Path) -> Crossing:
    return Crossing(table, Features(), Plan(epochs=1, seed=1), work)


def test_what_is_told_of_a_fold_does_not_depend_on_its_outcomes(table: Table, tmp_path) -> None:
    """Of trees and of what they teach; another fold's outcomes matter."""
    other = replace(table, labels=table.labels.copy())
    mine = table.fold == 1
    # Sepsis decides which hours are drawn, and so where the features' bins end.
    other.labels[mine, 1:] = 1 - other.labels[mine, 1:]
    one, two = crossing(table, tmp_path / "a"), crossing(other, tmp_path / "b")
    for risk in RISKS:
        np.testing.assert_array_equal(one.forest(risk, 1), two.forest(risk, 1))
    np.testing.assert_array_equal(one.taught(1), two.taught(1))
    assert not np.array_equal(one.forest("mortality", 0), two.forest("mortality", 0))


def test_a_model_of_all_is_shipped(table: Table, tmp_path) -> None:
    """Trees, network, blend and calibration; told out of fold it ranks; saved it loads."""
    work = crossing(table, tmp_path)
    told = work.told()
    rows = crossed(table, told, 1)
    assert not np.isnan(rows["p"]).any()
    figures = measured(table, rows)
    assert figures["hypotension"]["auroc"] > 0.7
    assert figures["sepsis_utility"]["all"] > 0
    model = work.shipped(told)
    counts = np.zeros(len(KINDS) * (R + 1), np.int64)
    counts[:R], counts[which_voice(R)] = 6, 60
    counts[[voice(0, kind, R) for kind in KINDS[1:]]] = 5
    assert model.trees.risk.bincount(minlength=len(counts)).tolist() == counts.tolist()
    version = checkpoint.save(model, tmp_path / "model.safetensors")
    assert checkpoint.load(tmp_path / "model.safetensors")[1] == version


def test_a_blend_finds_who_knows() -> None:
    """The member that says nothing is left out; of two that know alike each gets half."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, 30_000)
    happened = (rng.random(len(true)) < 1 / (1 + np.exp(-true))).astype(float)
    ones = np.ones(len(true))
    noise = [true + rng.normal(0, 1, len(true)) for _ in range(2)]
    assert weights_of(true, -true, happened, ones)[0] == pytest.approx(1, abs=0.05)
    assert weights_of(noise[0], noise[1], happened, ones)[0] == pytest.approx(0.5, abs=0.05)


def test_what_is_settled_is_calibrated(table: Table) -> None:
    """Slope 1 and intercept 0 on its own rows, mortality's after a day; a threshold that gains,
    bounds around.
    """
    table = replace(table, hour=table.hour + 12)
    rng = np.random.default_rng(1)
    logits = table.signals[:, 0, 0].astype(np.float64)[:, None].repeat(R, 1)
    network, trees = (3 * logits + rng.normal(0, 1, logits.shape) for _ in range(2))
    calibration = Calibration(R)
    settle(calibration, table, network, trees, 1)
    p = said(calibration, network, trees, table.case)
    for risk, name in enumerate(RISKS):
        read = table.hour >= (24 if name == "mortality" else 0)
        assert read.sum() > 100
        found = metrics.discrimination(p[read, risk], table.labels[read, risk] == 1)
        assert found["calibration_slope"] == pytest.approx(1, abs=0.01)
        assert found["calibration_intercept"] == pytest.approx(0, abs=0.01)
    gain = metrics.gains(table.labels[:, 0], table.hour, table.stay)
    assert gain[p[:, 0] >= float(calibration.threshold[0])].sum() > 0
    torch.testing.assert_close(calibration.blend.sum(1), torch.ones(R, dtype=torch.float64))


def test_thresholds_of_a_fold_come_from_the_others(table: Table) -> None:
    """Outcomes of a fold do not change what is said of it or whether it alarms."""
    rng = np.random.default_rng(2)
    logits = table.signals[:, 0, 0].astype(np.float64)[:, None].repeat(R, 1)
    told = Told(logits, logits + rng.normal(0, 1, logits.shape), logits)
    other = replace(table, labels=table.labels.copy())
    mine = table.fold == 3
    other.labels[mine] = 0
    one, two = crossed(table, told, 1), crossed(other, told, 1)
    for name in ("p", "positive", "p_trees", "positive_network"):
        np.testing.assert_array_equal(one[name][mine], two[name][mine])
        if name == "p":
            assert not np.array_equal(one[name][~mine], two[name][~mine])
