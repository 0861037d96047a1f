"""Trees as tensors: what LightGBM says, the same bits in any batch."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
import torch

from models import explain
from models.checkpoint import Calibrated, load, save
from models.features import ABSENT, VITAL_AT, D, E, F, V
from models.network import RISKS
from models.signals import COUNT
from models.trees import GRAIN, NotTheTrees, Trees, likeness, raw_of, voice, which_voice

X = COUNT * D + V * E + F
R = len(RISKS)


def grown(seed: int, rounds: int = 20, x: np.ndarray | None = None, **more) -> lightgbm.Booster:
    """A booster on rows by seed."""
    x = rows(seed) if x is None else x
    want = (x[:, 0] * x[:, 3] + x[:, 450] > 0.3).astype(float)
    said = {"objective": "binary", "num_leaves": 15, "verbose": -1, "seed": seed, "num_threads": 1}
    return lightgbm.train(said | more, lightgbm.Dataset(x, want), rounds)


def rows(seed: int, n: int = 600) -> np.ndarray:
    """Features in half steps of float16, as training has them, many of them equal."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, X)).astype(np.float16).astype(np.float32)


def test_trees_say_what_lightgbm_says() -> None:
    """The mean of a risk's boosters; rows that stand on a threshold go the same way."""
    boosters = {0: [grown(1), grown(2)], 2: [grown(3, 7)]}
    trees = Trees.from_lightgbm(boosters, R)
    x = np.concatenate([rows(1), rows(9)])
    edge = trees.threshold.flatten()[: len(x)].numpy()
    x[: len(edge), 0] = edge
    said = trees(torch.from_numpy(x)).numpy()
    for risk in range(R):
        want = raw_of(boosters[risk], x) if risk in boosters else np.zeros(len(x))
        np.testing.assert_allclose(said[:, risk], want, atol=2e-5)
    assert trees.risk.tolist() == [0] * 40 + [2] * 7


def test_voices_of_hospitals_count_as_far_as_a_row_is_like_theirs() -> None:
    """Beside those of all patients; with a signal taken out the likeness stays as it was told."""
    boosters = {
        0: [grown(1), grown(2)],
        1: [grown(3)],
        which_voice(R): [grown(4)],
        voice(0, "first", R): [grown(5)],
        voice(0, "second", R): [grown(6)],
    }
    shares = {0: [0.3, 0.2], voice(0, "first", R): [0.5], voice(0, "second", R): [0.5]}
    trees = Trees.from_lightgbm(boosters, R, shares)
    x = rows(8)
    raw = {
        number: np.stack([one.predict(x, raw_score=True) for one in some])
        for number, some in boosters.items()
    }
    like = likeness(raw[which_voice(R)][0])
    assert like.min() < 0.4 and like.max() > 0.6 and (like * 1024 % 1 == 0).all()
    assert likeness(np.array([-9.0, -4.0, 0.0, 4.0, 9.0])).tolist() == [0, 0, 0.5, 1, 1]
    want = 0.3 * raw[0][0] + 0.2 * raw[0][1]
    own = [raw[voice(0, kind, R)][0] for kind in ("first", "second")]
    want += 0.5 * ((1 - like) * own[0] + like * own[1])
    said, told = trees.heard(torch.from_numpy(x))
    np.testing.assert_allclose(told.numpy(), like, atol=GRAIN)
    np.testing.assert_allclose(said[:, 0].numpy(), want, atol=2e-3)
    np.testing.assert_allclose(said[:, 1].numpy(), raw[1][0], atol=2e-5)
    assert not said[:, 2:].any()
    second = trees(torch.from_numpy(x), torch.ones(len(x), dtype=torch.float64))
    plain = 0.3 * raw[0][0] + 0.2 * raw[0][1] + 0.5 * own[1]
    np.testing.assert_allclose(second[:, 0].numpy(), plain, atol=2e-5)


def test_a_rows_bits_do_not_depend_on_its_batch() -> None:
    """Alone, among others, and in another order of trees."""
    trees = Trees.from_lightgbm({1: [grown(4)]}, R)
    x = torch.from_numpy(rows(5))
    whole = trees(x)
    assert torch.equal(torch.cat([trees(row) for row in x[:50].split(1)]), whole[:50])
    each = trees.leaves(x).double()
    assert torch.equal(each.flip(1).cumsum(1)[:, -1], whole[:, 1])


def test_no_trees_say_nothing() -> None:
    """Zeros, and a model without them is the network alone."""
    assert torch.equal(Trees(R)(torch.randn(3, X)), torch.zeros(3, R, dtype=torch.float64))
    assert Trees.from_lightgbm({}, R).shape == (0, 1, 1)


def test_a_tree_that_never_splits_is_its_leaf() -> None:
    """As LightGBM grows where a leaf must hold more rows than there are."""
    booster = grown(6, 1, min_data_in_leaf=10_000)
    said = Trees.from_lightgbm({0: [booster]}, R)(torch.randn(4, X))
    np.testing.assert_allclose(said[:, 0].numpy(), raw_of([booster], rows(6)[:4]), atol=1e-6)


def test_trees_that_ask_for_missing_values_are_refused() -> None:
    """Features have none: such trees were grown on something else."""
    x = rows(7)
    x[::3, 0] = np.nan
    with pytest.raises(NotTheTrees, match="missing"):
        Trees.from_lightgbm({0: [grown(7, x=x)]}, R)


def test_a_model_with_trees_is_saved_and_loaded(tmp_path) -> None:
    """Its shapes come from the file."""
    model = Calibrated(trees=Trees.from_lightgbm({0: [grown(8, 5)]}, R))
    model.calibration.blend[0] = torch.tensor([0.3, 0.7])
    path = tmp_path / "model.safetensors"
    save(model, path)
    loaded, _ = load(path)
    signals, minutes, case = torch.randn(5, COUNT, D), torch.randn(5, V, E), torch.randn(5, F)
    with torch.inference_mode():
        assert torch.equal(
            loaded(signals, minutes, case)[0], model.eval()(signals, minutes, case)[0]
        )


def test_effects_are_of_network_and_trees() -> None:
    """The calibrated log-odds minus those of the features without the signal."""
    torch.manual_seed(2)
    booster = grown(10, 10)
    model = Calibrated(trees=Trees.from_lightgbm({risk: [booster] for risk in range(R)}, R)).eval()
    model.calibration.blend[:] = torch.tensor([0.4, 0.6])
    model.calibration.slope[:] = 1.3
    model.calibration.tilt[:, ::2] = 0.1
    signals, minutes, case = torch.randn(6, COUNT, D), torch.randn(6, V, E), torch.randn(6, F)
    signals[:, :, 1] = 0.0
    with torch.inference_mode():
        log_odds, said = model(signals, minutes, case)
        driver, effect = explain.effects(model, said, log_odds, signals, minutes, case)
        leading = (log_odds - model.calibration.limit).argmax(1)
        for row in range(6):
            signal = int(driver[row, 0])
            gone, less = signals.clone(), minutes.clone()
            gone[row, signal] = torch.tensor(ABSENT)
            if signal in VITAL_AT:
                less[row, VITAL_AT.index(signal)] = 0.0
            other = model.network(gone, less, case)
            experts = model.network.experts(other.hidden) * said.share.unsqueeze(2)
            trees = model.trees(torch.cat([gone.reshape(6, -1), less.reshape(6, -1), case], 1))
            want = model.calibration.log_odds(experts.sum(1), trees, case)
            risk = int(leading[row])
            assert float(effect[row, 0]) == pytest.approx(
                float(log_odds[row, risk] - want[row, risk]), abs=1e-4
            )
