"""Calibration: probabilities that are what happens, bounds that say how sure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.calibration import Calibration, platt


def drawn(n: int = 20_000):
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, n)
    true = 0.5 * logit - 2
    label = rng.random(n) < 1 / (1 + np.exp(-true))
    return logit, label


def test_slope_and_intercept_are_found() -> None:
    """Of a logit that is twice too steep."""
    slope, intercept = platt(*drawn())
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-2, abs=0.06)


def test_bounds_hold_the_risk_and_widen_with_novelty() -> None:
    """Fewer patients and more novelty mean wider bounds."""
    logit, label = drawn()
    calibration = Calibration(2)
    calibration.fit(0, logit, label, np.arange(len(logit)), seed=0)
    few = slice(0, 1000)
    calibration.fit(1, logit[few], label[few], np.arange(1000), seed=0)
    x = calibration.log_odds(torch.zeros(2, 2))
    p, low, high = calibration.bounds(x, torch.tensor([0.0, 1.0]))
    assert (low < p).all() and (p < high).all()
    assert p[0, 0] == pytest.approx(1 / (1 + np.exp(2)), abs=0.02)
    width = high - low
    assert (width[1] > width[0]).all()
    assert width[0, 1] > width[0, 0]


def test_a_crooked_risk_is_bent_to_what_happens() -> None:
    """Platt's line is wrong at both ends; the curve is right in every part, and ascends."""
    rng = np.random.default_rng(3)
    logit = rng.normal(0, 1.5, 60_000)
    label = rng.random(len(logit)) < 1 / (1 + np.exp(3 - 2.2 * np.tanh(logit)))
    calibration = Calibration(1)
    calibration.fit(0, logit, label, np.arange(len(logit)), seed=0)
    x = calibration.curve(0, logit)
    p = 1 / (1 + np.exp(-x))
    for part in np.array_split(np.argsort(logit), 10):
        rate = label[part].mean()
        assert p[part].mean() == pytest.approx(rate, abs=4 * (rate / len(part)) ** 0.5)
    assert (np.diff(x[np.argsort(logit)]) >= 0).all()
    assert platt(x, label) == pytest.approx((1, 0), abs=0.01)
    served = calibration.log_odds(torch.from_numpy(logit).unsqueeze(1))
    np.testing.assert_allclose(served[:, 0].numpy(), x, atol=1e-12)
