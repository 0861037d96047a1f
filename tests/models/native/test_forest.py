"""The engine's trees say what `models.trees` says, to the bit, with and without each signal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import derived, explain, native
from models.checkpoint import Calibrated
from models.features import ABSENT, VITAL_AT, D, E, F, V
from models.native.forest import CUTS, Forest
from models.network import RISKS, flat
from models.signals import COUNT
from models.trees import KINDS, STEP, Trees, which_voice

R = len(RISKS)


VOICES = len(KINDS) * (R + 1)


@pytest.fixture(autouse=True, scope="module")
def engine(require) -> None:
    """These tests need the library."""
    require("serving engine", native.available(), "models/native/build.py builds it")


def grown(
    rng: np.random.Generator, counts: list[int], leaves: int, features: int | None = None
) -> Trees:
    """Trees of any shape that ask any features, sums often, at thresholds that rows lie on."""
    total = sum(counts)
    trees = Trees(R, total, leaves, leaves)
    trees.risk[:] = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for tree in range(total):
        ends = [(0, "left"), (0, "right")]
        for node in range(1, int(rng.integers(1, leaves))):
            parent, side = ends.pop(int(rng.integers(len(ends))))
            getattr(trees, side)[tree, parent] = node
            ends += [(node, "left"), (node, "right")]
        for leaf, (parent, side) in enumerate(ends):
            # One tree in ten never splits: both its ends are one leaf.
            getattr(trees, side)[tree, parent] = ~(leaf % leaves if tree % 10 else 0)
    shape = trees.feature.shape
    asked = rng.integers(0, features or derived.Y, shape)
    sums = rng.random(shape) < (0.0 if features else 0.3)
    asked[sums] = rng.integers(derived.X, derived.Y, sums.sum())
    trees.feature.copy_(torch.from_numpy(asked))
    grid = np.where(sums, rng.integers(0, 40, shape) / 4, rng.integers(-8, 9, shape) / 4)
    trees.threshold.copy_(torch.from_numpy(grid))
    steps = rng.integers(-(2**24) + 1, 2**24, trees.leaf.shape)
    # What tells hospitals apart is often in doubt.
    steps[trees.risk.numpy() == which_voice(R)] >>= 3
    trees.leaf.copy_(torch.from_numpy(steps * STEP))
    return trees


def rows(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features on a grid, so that many lie on a threshold; a third of the signals are absent."""
    signals = rng.integers(-8, 9, (count, COUNT, D)).astype(np.float32) / 4
    signals[:, :, 1] = 0.0
    signals[:, :, 2] = rng.integers(0, 5, (count, COUNT)) / 4
    gone = rng.random((count, COUNT)) < 0.3
    signals[gone] = np.array(ABSENT, np.float32)
    minutes = rng.integers(-8, 9, (count, V, E)).astype(np.float32) / 4
    minutes[gone[:, list(VITAL_AT)]] = 0.0
    case = rng.integers(-8, 9, (count, F)).astype(np.float32) / 4
    return torch.from_numpy(signals), torch.from_numpy(minutes), torch.from_numpy(case)


def same(trees: Trees, seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> native.Native:
    """Hold the engine to the reference; returns it."""
    model = Calibrated(trees=trees).eval()
    packed = native.Native(model)
    said, without = packed.trees(*(x.numpy() for x in seen))
    with torch.inference_mode():
        np.testing.assert_array_equal(said, trees(flat(*seen)).numpy())
        expected = explain.trees_without(model, *seen)
    np.testing.assert_array_equal(without, expected.numpy())
    return packed


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 9), min_size=R, max_size=R)
    | st.lists(st.integers(0, 4), min_size=VOICES, max_size=VOICES),
    st.sampled_from((2, 3, 15, 16, 17, 31, 33, 100)),
    st.sampled_from((1, 7, 64, 65, 90)),
)
def test_trees_say_what_the_reference_says(
    seed: int, counts: list[int], leaves: int, count: int
) -> None:
    """Of any shapes, with voices of hospitals and without, some risks without trees, rows on
    thresholds, blocks full and not.
    """
    rng = np.random.default_rng(seed)
    same(grown(rng, counts, leaves), rows(rng, count))


def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    """Whatever stands in the lanes beside it."""
    rng = np.random.default_rng(1)
    seen = rows(rng, 70)
    counts = [5, 0, 3, 2, 4, *([3, 0, 0, 1, 0] * 2)]
    packed = same(grown(rng, counts, 31), seen)
    said, without = packed.trees(*(x.numpy() for x in seen))
    for row in (0, 63, 64, 69):
        alone = packed.trees(*(x[row : row + 1].numpy() for x in seen))
        np.testing.assert_array_equal(alone[0][0], said[row])
        np.testing.assert_array_equal(alone[1][0], without[row])


def test_a_feature_with_more_thresholds_than_a_byte_has_several_columns() -> None:
    """A row that lies beyond one column's last threshold is asked of the next."""
    rng = np.random.default_rng(2)
    trees = grown(rng, [60, 0, 0, 0], 31, features=3)
    fine = rng.normal(0, 2, trees.threshold.shape).astype(np.float32)
    trees.threshold.copy_(torch.from_numpy(fine))
    forest = Forest.of(trees)
    for feature in (0, 2):
        assert len(forest.asking(np.array([feature]))) > 1
    assert (forest.cut_at[1:] - forest.cut_at[:-1]).max() == CUTS
    seen = rows(rng, 70)
    edge = trees.threshold[trees.feature == 0][:70]
    seen[0][:, 0, 0] = edge
    seen[0][:, 0, 1] = 0.0
    same(trees, seen)


def test_sums_of_many_thresholds_lose_a_part() -> None:
    """The bin without a signal is searched for downwards, over the border of two columns."""
    rng = np.random.default_rng(3)
    trees = grown(rng, [0, 60, 0, 0], 31)
    trees.feature.copy_(torch.from_numpy(rng.integers(derived.Y - 2, derived.Y, (60, 31))))
    trees.threshold.copy_(torch.from_numpy(rng.uniform(0, 12, (60, 31)).astype(np.float32)))
    same(trees, rows(rng, 20))


def test_a_model_without_trees_hears_none() -> None:
    """Zeros, with and without a signal."""
    same(Trees(R), rows(np.random.default_rng(4), 5))


def test_leaves_that_are_no_steps_are_refused() -> None:
    """Sums would no longer be exact."""
    trees = grown(np.random.default_rng(5), [1, 0, 0, 0], 3)
    trees.leaf[0, 0] = STEP / 2
    with pytest.raises(ValueError, match="multiple of 2"):
        Forest.of(trees)


def test_trees_that_say_too_much_are_refused() -> None:
    """Their sum would leave 32 bits."""
    trees = grown(np.random.default_rng(6), [0, 200, 0, 0], 3)
    trees.leaf.fill_(15.0)
    with pytest.raises(ValueError, match="say more than 2048"):
        Forest.of(trees)


def test_trees_larger_than_the_engines_places_are_refused() -> None:
    """A place is a byte."""
    with pytest.raises(ValueError, match="more than 256"):
        Forest.of(grown(np.random.default_rng(7), [40, 0, 0, 0], 200))
