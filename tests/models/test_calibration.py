"""Calibration: probabilities that are what happens, bounds that say how sure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.calibration import Calibration, platt
from models.features import CASE_FEATURES, F
from models.subgroups import SUBGROUPS


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
    x = calibration.log_odds(torch.zeros(2, 2), None, torch.zeros(2, F))
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
    column = torch.from_numpy(logit).unsqueeze(1)
    served = calibration.log_odds(column, None, torch.zeros(len(logit), F))
    np.testing.assert_allclose(served[:, 0].numpy(), x, atol=1e-12)


def test_a_unit_that_the_curve_is_wrong_for_is_put_right_and_the_others_stay() -> None:
    """Slope 1.3 and more deaths in surgical units only; each unit is calibrated afterwards."""
    rng = np.random.default_rng(4)
    case = np.zeros((40_000, F), np.float32)
    unit = np.array([CASE_FEATURES.index(name) for name in ("medical", "surgical")])
    which = rng.integers(0, 2, len(case))
    case[np.arange(len(case)), unit[which]] = 1.0
    bent = rng.normal(-2, 1.5, len(case))
    true = np.where(which == 1, 1.3 * bent + 0.3, bent)
    label = rng.random(len(case)) < 1 / (1 + np.exp(-true))
    calibration = Calibration(1)
    calibration.fit_subgroups(0, bent, label, np.arange(len(case)), case)
    column = torch.from_numpy(bent).unsqueeze(1)
    x = calibration.log_odds(column, None, torch.from_numpy(case))[:, 0].numpy()
    for mine in (which == 0, which == 1):
        slope, intercept = platt(x[mine], label[mine])
        assert slope == pytest.approx(1, abs=0.03)
        assert intercept == pytest.approx(0, abs=0.06)
    neuro = SUBGROUPS.index("neuro")
    assert calibration.tilt[0, neuro] == calibration.shift[0, neuro] == 0


def test_few_patients_of_a_kind_hardly_lean_the_curve() -> None:
    """Thirty patients say less than what is believed before; their hours count as themselves."""
    rng = np.random.default_rng(5)
    logit = np.repeat(rng.normal(0, 1, 30), 50)
    label = np.repeat(rng.random(30) < 0.5, 50)
    case = np.zeros((len(logit), F), np.float32)
    case[:, CASE_FEATURES.index("coronary")] = 1.0
    calibration = Calibration(1)
    calibration.fit_subgroups(0, logit, label, np.repeat(np.arange(30), 50), case)
    assert 0 < calibration.tilt.abs().max() < 0.06
