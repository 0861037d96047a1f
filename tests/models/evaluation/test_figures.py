"""Figures of the card are what their names say, on data whose truth is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models.evaluation import cadence, decision_curve, faithfulness, novelty
from models.evaluation import calibration_curve as reliable
from models.evaluation.bootstrap import Counts, Draws
from models.evaluation.told import Told
from models.features import VITAL_AT
from models.network import RISKS
from models.predictor import Predictor
from models.signals import INDEX
from models.training.rows import rows_of

THRESHOLD = np.full(len(RISKS), 0.5)


def calibrated(seed: int = 0, n: int = 40_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(-2, 1, n)))
    return p, rng.random(n) < p, np.repeat(np.arange(n // 10), 10)


def test_reliability_of_a_true_risk_lies_on_the_line() -> None:
    """Observed is said, within its interval, in nearly every bin."""
    p, label, patient = calibrated()
    said = reliable.reliability(p, label, Draws(patient, 200))
    inside = [
        low <= x <= high
        for x, low, high in zip(said["said"], said["low"], said["high"], strict=True)
    ]
    assert sum(inside) >= 8 and sum(said["rows"]) == len(p)


def test_coverage_counts_cells_within_the_bounds() -> None:
    """Bounds that hold everything cover all, bounds of no width nothing; none without rows."""
    p, label, patient = calibrated()
    wide = reliable.coverage(p, p * 0.5, np.minimum(2 * p, 1), label, patient)
    assert wide["inside"] == 1.0 and wide["cells"] == 20
    assert reliable.coverage(p, p, p, label, patient)["inside"] == 0.0
    few = reliable.coverage(p[:20], p[:20], p[:20], label[:20], patient[:20])
    assert few["inside"] is None
    five = reliable.coverage(p, p * 0.5, np.minimum(2 * p, 1), label, patient, groups=5, bins=10)
    assert five["cells"] == 50


def test_net_benefit_is_hits_less_weighed_false_alarms() -> None:
    """By hand on four rows; a perfect model gains the base rate, treating all what it should."""
    p = np.array([0.9, 0.6, 0.4, 0.1])
    label = np.array([True, False, True, False])
    draws = Draws(np.arange(4), 2)
    found = decision_curve.net_benefit(Counts.of(p, label, draws), np.array([0.5, 0.2, 0.95]))
    assert found[:, 0] == pytest.approx([(1 - 1) / 4, (2 - 1 * 0.25) / 4, 0.0])
    p, label, patient = calibrated()
    said = decision_curve.curve(label.astype(float), p, label, Draws(patient, 50))
    assert said["model"] == pytest.approx([label.mean()] * len(said["model"]), abs=1e-5)
    assert said["thresholds_ahead_of_news2"] == decision_curve.POINTS
    t = said["threshold"][0]
    assert said["all"][0] == pytest.approx(
        label.mean() - (1 - label.mean()) * t / (1 - t), abs=1e-4
    )


def test_a_score_as_probability_is_calibrated_on_others() -> None:
    """Halves that speak of each other; a useless score says the base rate."""
    _, label, patient = calibrated()
    rng = np.random.default_rng(1)
    said = decision_curve.as_probability(
        rng.integers(0, 9, len(label)).astype(float), label, patient
    )
    assert said.mean() == pytest.approx(label.mean(), abs=0.01)
    assert said.std() < 0.02


def test_a_deleted_signal_is_as_if_never_measured(ward) -> None:
    """It is in no scale any more, and nothing else changed."""
    windows = rows_of(ward.stay(3)).windows
    hr, lactate = INDEX["hr"], INDEX["lactate"]
    which = np.where(np.arange(len(windows.cases)) % 2 == 0, hr, lactate)
    less = faithfulness.without(windows, which)
    for i, signal in enumerate(which.tolist()):
        assert np.isnan(less.hours[i, :, signal]).all() and less.newest_age_ms[i, signal] == -1
        other = np.delete(np.arange(windows.hours.shape[2]), signal)
        np.testing.assert_array_equal(less.hours[i][:, other], windows.hours[i][:, other])
    column = VITAL_AT.index(hr)
    assert np.isnan(less.minutes[::2, :, column]).all()
    np.testing.assert_array_equal(less.minutes[1::2], windows.minutes[1::2])


def test_drivers_move_the_risk_as_they_say(predictor: Predictor, ward) -> None:
    """Deleting the first driver moves the leading risk by about its effect, more than another."""
    said = faithfulness.deletion(predictor, THRESHOLD, [ward.stay(i) for i in range(12)])
    assert said["patients"] == 12
    assert said["moves_as_said"]["value"] > 0.9
    assert said["correlation_said_and_moved"] > 0.9
    assert said["named_more_than_random"]["low"] > 0
    near = faithfulness.minutes_apart(
        predictor,
        THRESHOLD,
        [dataclasses.replace(ward.stay(i), times_ms=ward.stay(i).times_ms // 15) for i in range(6)],
    )
    assert near["pairs"] > 0


def test_agreement_counts_shared_drivers() -> None:
    """The same drivers agree wholly, others not at all, one of three by a fifth."""
    signal = np.array([[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 8, 9]], np.int16)
    effect = np.array([[1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    patient = np.arange(4)

    def of(a: int, b: int) -> dict:
        return faithfulness.agreement(signal, effect, np.array([a]), np.array([b]), patient)

    assert of(0, 1)["first_three_in_common"]["value"] == 1.0
    assert of(0, 2)["first_three_in_common"]["value"] == 0.0
    third = of(2, 3)
    assert third["first_three_in_common"]["value"] == pytest.approx(0.2)
    assert third["first_driver_the_same"]["value"] == 1.0
    assert third["same_direction"]["value"] == 0.0


def test_a_kind_that_was_left_out_is_novel_where_it_differs(ward) -> None:
    """Stays whose values lie elsewhere have a higher novelty than those like the known ones."""
    known = [ward.stay(i) for i in range(60)]
    for stay in known:
        stay.value = (stay.value * 0.2 + 40).astype(np.float32)
    test = [ward.stay(100 + i) for i in range(20)]
    for stay in test[:10]:
        stay.value = (stay.value * 0.2 + 40).astype(np.float32)
    far = {stay.record for stay in test[10:]}
    said = novelty.held_out(known, test, lambda stay: stay.record in far)
    assert said["left_out"] == 10 and said["auroc"]["value"] > 0.9


def test_spoiling_touches_only_what_is_measured(ward) -> None:
    """Where nothing was measured nothing appears, in all ways of spoiling."""
    windows = rows_of(ward.stay(5)).windows
    rng = np.random.default_rng(0)
    for kind in novelty.SPOILT:
        after = novelty.spoilt(windows, kind, rng)
        np.testing.assert_array_equal(np.isnan(after.hours), np.isnan(windows.hours))
        np.testing.assert_array_equal(np.isnan(after.newest_value), np.isnan(windows.newest_value))
        np.testing.assert_array_equal(np.isnan(after.minutes), np.isnan(windows.minutes))
        assert not np.array_equal(after.newest_value, windows.newest_value, equal_nan=True)


def test_bands_of_novelty_have_their_own_figures() -> None:
    """Bounds that widen with novelty are seen to."""
    p, label, patient = calibrated(n=4_000)
    level = np.linspace(0, 0.99, len(p))[np.random.default_rng(2).permutation(len(p))]
    half = 0.1 * (1 + 3 * level)
    odds = np.log(p / (1 - p))
    four = np.repeat(p[:, None], 4, 1)
    told = Told(
        row=np.arange(len(p)),
        p=four,
        low=np.repeat(1 / (1 + np.exp(half - odds))[:, None], 4, 1),
        high=np.repeat(1 / (1 + np.exp(-half - odds))[:, None], 4, 1),
        positive=four > 0.5,
        novelty=level,
        share=np.zeros((len(p), 4)),
        driver_signal=np.zeros((len(p), 5), np.int16),
        driver_effect=np.zeros((len(p), 5)),
    )
    bands = novelty.by_band(told, 0, label.astype(np.int8), patient)
    widths = [band["median_width_log_odds"] for band in bands]
    assert len(bands) == 4 and widths == sorted(widths)
    assert widths[-1] > 2.5 * widths[0]


def test_a_monitor_that_repeats_itself_says_the_same(ward) -> None:
    """Newest values and the hours are those of the hourly stay; the minutes are filled."""
    stay = ward.stay(7, hours=9, minutes=False)
    last = 6
    hourly = rows_of(stay).windows
    fast = cadence.at_last(cadence.repeated(stay, last, 60_000), 72)
    np.testing.assert_array_equal(fast.newest_value[0], hourly.newest_value[last])
    np.testing.assert_array_equal(fast.hours[0], hourly.hours[last])
    assert (~np.isnan(fast.minutes[0])).sum() > 5 * (~np.isnan(hourly.minutes[last])).sum()


def test_cadences_are_compared_at_the_same_moments(predictor: Predictor, ward) -> None:
    """Every moment counts once, and the spread is of probabilities."""
    said = cadence.compared(predictor, [ward.stay(i, 8, minutes=False) for i in range(4)])
    assert said["moments"] == 12
    assert all(0 <= said[risk]["median"] <= said[risk]["most"] <= 1 for risk in RISKS)
