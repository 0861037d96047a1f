"""The predictor: what the stream relies on."""

from __future__ import annotations

import numpy as np
import pytest

from models.predictor import Predictor
from streaming.model import Model, Predictions

NUMBERS = tuple(name for name in Predictions.__dataclass_fields__ if name != "text")


def filled(predictor: Predictor, ward, count: int = 24):
    store = predictor.store(count)
    for slot in range(count):
        ward.feed(store, slot, ward.stay(slot, hours=1 + slot * 3 % 60))
    return store


def test_it_is_the_streams_model(predictor: Predictor) -> None:
    """By structure, without importing it."""
    model: Model = predictor
    assert model.length_buckets[-1] == 72


def test_a_row_says_the_same_bits_in_every_batch(predictor: Predictor, ward) -> None:
    """Alone, repeated, shuffled and padded to any length."""
    store = filled(predictor, ward)
    slots = np.arange(24, dtype=np.int32)
    whole = predictor.predict(store.gather(slots))
    rng = np.random.default_rng(0)
    for turn in range(25):
        some = rng.choice(slots, int(rng.integers(1, 40)))
        bins = None if turn % 2 else 72
        got = predictor.predict(store.gather(some, bins))
        for name in NUMBERS:
            np.testing.assert_array_equal(getattr(got, name), getattr(whole, name)[some], name)
        if whole.text is not None:
            assert got.text == [whole.text[i] for i in some]
    for slot in slots:
        alone = predictor.predict(store.gather(slots[slot : slot + 1]))
        np.testing.assert_array_equal(alone.p[0], whole.p[slot])
        np.testing.assert_array_equal(alone.driver_effect[0], whole.driver_effect[slot])


def test_numbers_are_within_their_meaning(predictor: Predictor, ward) -> None:
    """Probabilities within their bounds, shares that sum to 1, drivers that were measured."""
    said = predictor.predict(filled(predictor, ward).gather(np.arange(24, dtype=np.int32)))
    assert (said.low <= said.p).all() and (said.p <= said.high).all()
    assert (said.p > 0).all() and (said.p < 1).all()
    np.testing.assert_allclose(said.share.sum(1), 1, atol=1e-12)
    assert (said.novelty >= 0).all() and (said.novelty <= 1).all()
    for row in range(24):
        named = said.driver_signal[row][said.driver_signal[row] >= 0]
        assert (said.input_age_ms[row][named] >= 0).all()
        strength = np.abs(said.driver_effect[row])
        assert (np.diff(strength) <= 0).all()


def test_a_window_without_vitals_is_warming_up(predictor: Predictor) -> None:
    """An empty window does not speak, and does not fail."""
    store = predictor.store(1)
    store.open(0, 0, None)
    store.touch(np.array([0], np.int32), np.array([1000], np.int64))
    said = predictor.predict(store.gather(np.array([0], np.int32)))
    assert not said.speaks[0]
    assert np.isfinite(said.p).all()


def test_the_shipped_model_loads() -> None:
    """Its digest, grid and card fit."""
    from models import predictor

    assert predictor.load().version.startswith("1.0.0+")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_later_changes_a_prediction(predictor: Predictor, ward, seed: int) -> None:
    """What comes after hour t changes nothing at t: a stay cut there says the same."""
    from models.training.rows import rows_of

    stay = ward.stay(seed)
    rows = rows_of(stay)
    whole = predictor.predict(rows.windows)
    at = 9
    cut = int(rows.windows.newest_ms[at])
    keep = stay.times_ms[stay.row] <= cut
    rng = np.random.default_rng(seed)
    other = stay.value.copy()
    other[~keep] = rng.permutation(other[~keep]) * np.float32(0.9)
    stay.value = other
    changed = predictor.predict(rows_of(stay).windows)
    np.testing.assert_array_equal(changed.p[: at + 1], whole.p[: at + 1])
    np.testing.assert_array_equal(changed.share[: at + 1], whole.share[: at + 1])
