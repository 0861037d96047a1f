"""Figures from counts are those of the rows; intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.calibration import platt
from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval


def sample(seed: int, n: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patient = np.sort(rng.integers(0, patients, n))
    x = rng.normal(-1.5, 1.2, n)
    p = 1 / (1 + np.exp(-x))
    return p, rng.random(n) < p, patient


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_figures_of_counts_are_those_of_the_rows(seed: int, digits: int) -> None:
    """AUROC and AUPRC as scikit-learn has them, ties included."""
    p, label, patient = sample(seed, 300, 40)
    p = p.round(digits)
    if not 0 < label.sum() < len(label):
        return
    counts = Counts.of(p, label, Draws(patient, 3))
    assert measures.auroc(counts)[0] == pytest.approx(roc_auc_score(label, p))
    assert measures.auprc(counts)[0] == pytest.approx(average_precision_score(label, p))
    assert measures.brier(counts)[0] == pytest.approx(np.mean((p - label) ** 2))


def test_many_values_are_binned_without_harm() -> None:
    """Bins by rank change AUROC, AUPRC and slope by less than anyone would read."""
    p, label, patient = sample(1, 60_000, 900)
    counts = Counts.of(p, label, Draws(patient, 2))
    assert measures.auroc(counts)[0] == pytest.approx(roc_auc_score(label, p), abs=1e-4)
    assert measures.auprc(counts)[0] == pytest.approx(average_precision_score(label, p), abs=2e-3)
    slope, _ = platt(np.log(p / (1 - p)), label)
    assert measures.slope(counts)[0] == pytest.approx(slope, abs=1e-3)
    assert measures.intercept(counts)[0] == pytest.approx(0, abs=0.05)


def test_a_draw_is_what_repeating_its_patients_gives() -> None:
    """Each column is the figure of the rows repeated as often as their patient was drawn."""
    p, label, patient = sample(2, 500, 60)
    draws = Draws(patient, 4)
    found = measures.auroc(Counts.of(p, label, draws))
    for column in range(5):
        times = draws.times[draws.at, column].astype(int)
        again = roc_auc_score(np.repeat(label, times), np.repeat(p, times))
        assert found[column] == pytest.approx(again)
    assert draws.times[:, 1:].sum(0).tolist() == [draws.patients] * 4


def test_the_same_draws_pair_what_is_compared() -> None:
    """A copy is ahead of itself by nothing in any draw; noise added to it is behind."""
    p, label, patient = sample(3, 4_000, 300)
    draws = Draws(patient, 100)
    own = measures.auroc(Counts.of(p, label, draws))
    assert interval(own - measures.auroc(Counts.of(p, label, draws))) == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    noise = p + np.random.default_rng(0).normal(0, 0.5, len(p))
    ahead = interval(own - measures.auroc(Counts.of(noise, label, draws)))
    assert ahead["low"] is not None and ahead["low"] > 0


def test_an_interval_of_nothing_is_nothing() -> None:
    """Where there are no events, no figure is made up."""
    p, _, patient = sample(4, 50, 10)
    counts = Counts.of(p, np.zeros(50, np.bool_), Draws(patient, 5))
    assert interval(measures.auroc(counts))["value"] is None
    assert interval(measures.slope(counts))["value"] is None


def test_what_is_not_known_ranks_lowest() -> None:
    """A score of which nothing is known counts as the least."""
    label = np.array([False, True, True])
    counts = Counts.of(np.array([np.nan, 1.0, 2.0]), label, Draws(np.arange(3), 2))
    assert measures.auroc(counts)[0] == 1.0
