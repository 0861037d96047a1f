"""Training: rows as a worker would hold them, splits by patient, the same weights again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.features import Features
from models.network import RISKS
from models.predictor import Predictor
from models.training import metrics
from models.training.cache import Table, features_of
from models.training.fit import Plan, fit
from models.training.rows import UNKNOWN, rows_of
from models.training.split import part_of


@pytest.mark.parametrize("hours", [1, 20, 80])
def test_online_equals_offline(predictor: Predictor, ward, hours: int) -> None:
    """A stay fed message by message gives the windows and the numbers that training sees."""
    stay = ward.stay(hours, hours)
    rows = rows_of(stay)
    offline = predictor.predict(rows.windows)
    store = predictor.store(1)
    for i in range(0, len(rows.hour), 7):
        ward.feed(store, 0, stay, until=int(rows.windows.newest_ms[i]))
        live = store.gather(np.array([0], np.int32), 72)
        np.testing.assert_array_equal(live.hours[0], rows.windows.hours[i])
        np.testing.assert_array_equal(live.minutes[0], rows.windows.minutes[i])
        np.testing.assert_array_equal(live.newest_value[0], rows.windows.newest_value[i])
        np.testing.assert_array_equal(live.newest_age_ms[0], rows.windows.newest_age_ms[i])
        assert live.length[0] == rows.windows.length[i]
        np.testing.assert_array_equal(predictor.predict(live).p[0], offline.p[i])


def test_labels_look_one_hour_ahead(ward) -> None:
    """A low pressure within the hour after a row labels that row, and none before."""
    stay = ward.stay(1, hours=6, minutes=False)
    keep = stay.signal < 0
    stay.row = np.array([0, 3], np.int32)
    stay.signal = np.array([4, 4], np.int16)
    stay.value = np.array([80.0, 60.0], np.float32)
    assert not keep.any()
    labels = rows_of(stay).labels[:, RISKS.index("hypotension")]
    assert labels.tolist() == [UNKNOWN, UNKNOWN, 1, UNKNOWN, UNKNOWN, UNKNOWN]


def test_a_patient_is_in_one_part(ward) -> None:
    """The part follows from set and record alone; eICU's from the hospital."""
    parts = [part_of(ward.stay(i)) for i in range(300)]
    assert parts == [part_of(ward.stay(i)) for i in range(300)]
    assert 0.6 < parts.count("train") / 300 < 0.8
    one, two = ward.stay(1), ward.stay(2)
    one.set_name = two.set_name = "eicu-demo"
    assert part_of(one) == part_of(two)


def table_of(ward) -> Table:
    features = Features()
    made, labels, stays, hours = [], [], [], []
    for seed in range(12):
        rows = rows_of(ward.stay(seed))
        made.append(features_of(features, rows, np.arange(len(rows.hour))))
        labels.append(rows.labels)
        stays += [seed] * len(rows.hour)
        hours.append(rows.hour)
    signals, minutes, case = (np.concatenate(x) for x in zip(*made, strict=True))
    n = len(stays)
    zeros = np.zeros(n, np.int8)
    return Table(
        signals,
        minutes,
        case,
        np.concatenate(labels),
        np.array(stays),
        np.concatenate(hours),
        zeros,
        zeros,
        (np.array(stays) % 4).astype(np.int8),
        zeros,
        zeros,
        np.array(stays).astype(str),
    )


def test_the_same_seed_gives_the_same_weights(ward, tmp_path) -> None:
    """Also when the run was stopped after its first epoch; another seed gives others."""
    table = table_of(ward)
    threads = torch.get_num_threads()
    try:
        first = fit(table, Features(), Plan(epochs=2, seed=1), tmp_path / "a")
        again = fit(table, Features(), Plan(epochs=2, seed=1), tmp_path / "b")
        resumed = fit(table, Features(), Plan(epochs=2, seed=1), tmp_path / "b")
        other = fit(table, Features(), Plan(epochs=2, seed=2), tmp_path / "a")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    for a, b, c in zip(first.parameters(), again.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert not torch.equal(first.of_signals, other.of_signals)


def test_gains_are_the_utilities_apart(ward) -> None:
    """What an alarm gains over silence, also where hours between were not kept."""
    labels = np.zeros(40, np.int8)
    labels[20:] = 1
    silent, alarm = metrics.utilities(labels)
    hour = np.arange(40)
    whole = metrics.gains(labels, hour, np.zeros(40, np.int64))
    np.testing.assert_allclose(whole, alarm - silent)
    keep = np.r_[3, 9, 17, 20:30]
    some = metrics.gains(labels[keep], hour[keep], np.zeros(len(keep), np.int64))
    np.testing.assert_array_equal(some, whole[keep])
    unknown = np.full(5, UNKNOWN, np.int8)
    assert not metrics.gains(unknown, hour[:5], np.zeros(5, np.int64)).any()


def test_utility_is_the_official_one() -> None:
    """The values the challenge's formula has at its corners; silence is 0, the best is 1."""
    labels = np.zeros(30, np.int8)
    labels[14:] = 1
    silent, alarm = metrics.utilities(labels)
    onset = 20
    assert alarm[onset - 12] == 0 and alarm[onset - 9] == 0.5
    assert alarm[onset - 6] == 1 and alarm[onset] == pytest.approx(1 / 3)
    assert alarm[onset + 3] == pytest.approx(0) and alarm[onset + 4] == 0
    assert silent[onset] == pytest.approx(-4 / 3) and silent[onset + 3] == -2
    assert alarm[0] == -0.05
    well = np.zeros(10, np.int8)
    best = (np.arange(30) >= onset - 12) & (np.arange(30) <= onset + 3)
    never = np.zeros(10, np.bool_)
    assert metrics.utility([(labels, best), (well, never)]) == pytest.approx(1)
    assert metrics.utility([(labels, best & False), (well, never)]) == 0
    assert metrics.utility([(labels, best & False), (well, ~never)]) < 0


def test_event1_is_the_lesser_of_both() -> None:
    """Sensitivity 1/2, positive predictive value 1."""
    p = np.array([0.9, 0.2, 0.1, 0.1])
    label = np.array([True, True, False, False])
    assert metrics.event1(p, label, 0.5) == 0.5
    assert metrics.event1(p, label, metrics.event1_threshold(p, label)) == 1
