"""Calibration from counts that hospitals add up is that of all rows together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import calibration as pooled
from models.calibration import Calibration
from models.federated import bins, calibrate
from models.federated.bins import Curves, Spread


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are too steep, labels, stays whose rows are alike, and each row's hospital."""
    rng = np.random.default_rng(2)
    stays = 3000
    common = rng.normal(0, 1, stays)
    stay = np.repeat(np.arange(stays), rng.integers(1, 12, stays))
    logit = 1.5 * (common[stay] + 0.3 * rng.normal(0, 1, len(stay))) - 2.0
    p = 1 / (1 + np.exp(-(0.6 * logit + 0.3)))
    label = (rng.random(stays)[stay] < p).astype(np.int8)
    return logit, label, stay, rng.integers(0, 4, stays)[stay]


def _federated() -> tuple[Calibration, Calibration]:
    """Of counts of four hospitals, and of all rows."""
    logit, label, stay, site = _rows()
    logits, labels = logit[:, None], label[:, None]
    gain = np.where(label == 1, 1.0, -0.1)
    parts = [site == number for number in range(4)]
    counted = np.sum([bins.count(logits[at], labels[at], stay[at]) for at in parts], 0)
    gained = np.sum([bins.gained(logit[at], gain[at]) for at in parts], 0).astype(np.float64)
    curves = Curves.of(gained, counted, 1)
    edges = curves.edges()
    summed = np.sum([bins.spread(logits[at], labels[at], stay[at], edges) for at in parts], 0)
    found, whole = Calibration(1), Calibration(1)
    assert calibrate.apply(found, curves, Spread.of(summed, edges), sepsis=0) == [0]
    whole.fit(0, logit, label == 1, stay, 7)
    return found, whole


def test_slope_intercept_and_bounds_are_those_of_all_rows() -> None:
    """Within a fine bin's width; the bounds within the noise of the bootstrap that they replace."""
    assert bins.BINS == pooled.BINS
    found, whole = _federated()
    assert abs(float(found.slope[0] - whole.slope[0])) < 2e-3
    assert abs(float(found.intercept[0] - whole.intercept[0])) < 5e-3
    torch.testing.assert_close(found.knots, whole.plain, atol=0.05, rtol=0.02)
    torch.testing.assert_close(found.width, whole.width, atol=0.05, rtol=0.25)


def test_the_threshold_is_where_alarms_gain_most() -> None:
    """Of all borders of fine bins, the one with the largest sum of gains above it."""
    logit, label, _, _ = _rows()
    gain = np.where(label == 1, 1.0, -0.1)
    found, _ = _federated()
    slope, intercept = float(found.slope[0]), float(found.intercept[0])
    limit = float(torch.logit(found.threshold[0]) - intercept) / slope
    best = max(float(gain[logit >= at].sum()) for at in np.arange(-16, 16, 1 / 16))
    assert abs(float(gain[logit >= limit - 1e-9].sum()) - best) < 1e-6


def test_event_1_balances_sensitivity_and_predictive_value() -> None:
    """The lesser of the two at the threshold is the best of all borders."""
    logit, label, stay, _ = _rows()
    counted = bins.count(logit[:, None], label[:, None], stay)
    curves = Curves.of(np.zeros(bins.FINE_BINS), counted, 1)

    def event_1(at: float) -> float:
        alarm = logit >= at - 1e-9
        hit = float((label[alarm] == 1).sum())
        return min(hit / (label == 1).sum(), hit / max(1.0, alarm.sum()))

    limit = curves.limit(0, by_gain=False)
    assert event_1(limit) >= max(event_1(at) for at in np.arange(-16, 16, 1 / 16)) - 1e-9


@pytest.mark.parametrize(("stays", "done"), [(29, []), (30, [0])])
def test_events_of_too_few_stays_calibrate_nothing(stays: int, done: list[int]) -> None:
    """Many rows of few patients are few: the risk keeps the calibration it had."""
    rng = np.random.default_rng(4)
    stay = np.repeat(np.arange(60), 20)
    labels = ((stay < stays) & (np.arange(len(stay)) % 20 > 9)).astype(np.int8)[:, None]
    logits = labels + rng.normal(0, 1, labels.shape)
    curves = Curves.of(np.zeros(bins.FINE_BINS), bins.count(logits, labels, stay), 1)
    edges = curves.edges()
    spread = Spread.of(bins.spread(logits, labels, stay, edges), edges)
    found = Calibration(1)
    assert calibrate.apply(found, curves, spread, sepsis=0) == done
    assert (float(found.slope[0]) == 1.0) is not bool(done)
    labels[:] = 1
    labels[7] = 0
    curves = Curves.of(np.zeros(bins.FINE_BINS), bins.count(logits, labels, stay), 1)
    assert curves.platt(0) is None
