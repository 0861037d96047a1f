"""Trees grow on what they may see, and are the same when asked again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.network import RISKS
from models.training import forest
from models.training.cache import Table
from models.training.forest import Forester, Recipe, asked_of, targets, told
from models.training.sample import hours
from models.trees import Trees, likeness

SMALL = (Recipe(trees=8, members=2, leaves=7, least=10),)
MORTALITY = RISKS.index("mortality")


def test_what_stays_apart_is_not_seen(table: Table, tmp_path) -> None:
    """Outcomes of a fold change nothing in trees that were grown without it; others do."""
    apart = table.fold == 2
    other = replace(table, labels=table.labels.copy())
    other.labels[apart, MORTALITY] = 1 - other.labels[apart, MORTALITY]
    rows = np.arange(len(table.stay))
    said = [
        told(Forester(t, tmp_path / name, 1).grow("mortality", SMALL, mask, "x"), t, rows)
        for name, t, mask in (
            ("a", table, apart),
            ("b", other, apart),
            ("c", table, ~apart & (table.fold != 1)),
        )
    ]
    np.testing.assert_array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])


def test_trees_are_kept_on_disk(table: Table, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped run goes on with those that were grown; a forest has all its members."""
    nothing = np.zeros(len(table.stay), np.bool_)
    first = Forester(table, tmp_path, 1).grow("sepsis", SMALL, nothing, "all")
    monkeypatch.setattr(forest.lightgbm, "train", None)
    again = Forester(table, tmp_path, 1).grow("sepsis", SMALL, nothing, "all")
    assert [m.model_to_string() for m in again] == [m.model_to_string() for m in first]
    assert len(first) == 2


def test_trees_are_the_same_on_any_number_of_threads(table: Table, tmp_path) -> None:
    """And so is what they say: the same seed gives the same weights, however many cores."""
    nothing, rows = np.zeros(len(table.stay), np.bool_), np.arange(len(table.stay))
    said, trees = [], []
    for threads in (1, 3):
        forester = Forester(table, tmp_path / str(threads), 1, threads)
        grown = forester.grow("sepsis", SMALL, nothing, "all")
        trees.append([one.dump_model()["tree_info"] for one in grown])
        said.append(told(grown, table, rows, threads))
    assert trees[0] == trees[1]
    np.testing.assert_array_equal(*said)


def test_members_of_several_recipes_make_one_forest(table: Table, tmp_path) -> None:
    """Numbered through: the first keep their seeds, so that adding some grows none again."""
    nothing = np.zeros(len(table.stay), np.bool_)
    two = Forester(table, tmp_path, 1).grow("sepsis", SMALL, nothing, "all")
    more = (*SMALL, Recipe(trees=5, leaves=3, least=10))
    three = Forester(table, tmp_path, 1).grow("sepsis", more, nothing, "all")

    assert [m.num_trees() for m in three] == [8, 8, 5]
    assert [m.model_to_string() for m in three[:2]] == [m.model_to_string() for m in two]


def test_hospitals_have_trees_of_their_own(table: Table, tmp_path) -> None:
    """Grown on either alone, they count as far as a row is like that hospital's; what the tensors
    say is what the boosters say. A hospital apart leaves those of all patients.
    """
    signals = table.signals.copy()
    signals[:, 3, 2] = table.hospital * 2 - 1
    table = replace(table, signals=signals)
    # The outcome follows from the first signal in one hospital, and from nothing in the other.
    labels = table.labels.copy()
    first = np.nonzero(table.hospital == 0)[0]
    labels[first, MORTALITY] = labels[np.random.default_rng(0).permutation(first), MORTALITY]
    table = replace(table, labels=labels)
    recipes = (*SMALL, Recipe(trees=8, leaves=7, least=10, hospitals=True, weight=2.0))
    forester = Forester(table, tmp_path, 1)
    apart, rows = table.fold == 2, np.nonzero(table.fold == 2)[0]
    grown = forester.forest("mortality", recipes, apart, "x")
    assert [len(grown.all), len(grown.first), len(grown.second)] == [2, 1, 1]
    assert grown.which is not None
    said = grown.told(table, rows)
    trees = [one.predict(asked_of(table, rows), raw_score=True) for one, _ in grown.all]
    own = [
        members[0][0].predict(asked_of(table, rows), raw_score=True)
        for members in (grown.first, grown.second)
    ]
    like = likeness(grown.which.predict(asked_of(table, rows), raw_score=True))
    assert like[table.hospital[rows] == 1].mean() > 0.9
    assert like[table.hospital[rows] == 0].mean() < 0.1
    want = 0.25 * (trees[0] + trees[1]) + 0.5 * ((1 - like) * own[0] + like * own[1])
    np.testing.assert_allclose(said[0], want, atol=1e-9)
    np.testing.assert_array_equal(said[1], trees[0])
    assert np.ptp(own[0]) < 0.7 * np.ptp(own[1])

    voices = grown.voices(MORTALITY)
    tensors = Trees.from_lightgbm(
        {number: [one for one, _ in members] for number, members in voices.items()},
        len(RISKS),
        {number: [share for _, share in members] for number, members in voices.items()},
    )
    parts = (table.signals[rows], table.minutes[rows], table.case[rows])
    flat = np.concatenate([part.reshape(len(rows), -1) for part in parts], 1, dtype=np.float32)
    held = tensors(torch.from_numpy(flat))[:, MORTALITY].numpy()
    np.testing.assert_allclose(held, said[0], atol=1e-3)

    alone = forester.forest("mortality", recipes, apart | (table.hospital == 1), "one hospital")
    assert alone.which is None and not alone.first and len(alone.all) == 2
    assert len(forester.grow("mortality", recipes, apart, "x")) == 2


def test_one_outcome_grows_nothing(table: Table, tmp_path) -> None:
    """Nothing can be told apart: no trees, and they say 0."""
    table.labels[:, MORTALITY] = 0
    nothing = np.zeros(len(table.stay), np.bool_)
    assert Forester(table, tmp_path, 1).grow("mortality", SMALL, nothing, "all") == []
    assert not told([], table, np.arange(5)).any()


def test_rare_hours_train_all_and_others_are_drawn(table: Table) -> None:
    """So many of a stay, its last one, every septic one; the drawn stand for the rest."""
    at, stands = hours(table, 3, per_stay=4)
    assert (np.diff(at) > 0).all()
    assert set(np.nonzero(table.labels[:, 0] == 1)[0]) <= set(at.tolist())
    assert set(np.nonzero(np.diff(table.stay))[0]) <= set(at.tolist())
    well = np.unique(table.stay[table.labels[:, 1] == 0])
    count = np.bincount(table.stay[at])
    assert set(count[well].tolist()) <= {4, 5}
    assert stands.max() == 5.0
    assert not np.array_equal(at, hours(table, 4, per_stay=4)[0])


def test_late_hours_teach_most_of_mortality(table: Table) -> None:
    """Unknown ones nothing."""
    table.hour[:] = np.where(np.arange(len(table.hour)) % 2, 40, 5)
    table.labels[:6, MORTALITY] = -1
    _, weight = targets(table, "mortality")
    assert not weight[:6].any()
    assert set(weight[6:].tolist()) == {1.0, forest.LATE}


def test_members_may_learn_the_label_of_sepsis(table: Table, tmp_path) -> None:
    """Every known hour alike, whatever an alarm gains in it; other risks know nothing else."""
    sepsis = table.labels[:, RISKS.index("sepsis")]
    want, weight = targets(table, "sepsis", by_label=True)
    np.testing.assert_array_equal(want, sepsis == 1)
    np.testing.assert_array_equal(weight, sepsis >= 0)
    assert not np.array_equal(want, targets(table, "sepsis")[0])

    nothing = np.zeros(len(table.stay), np.bool_)
    by_label = (replace(SMALL[0], label=True),)

    def grown(risk: str) -> list[bool]:
        gain, label = (
            Forester(table, tmp_path, 1).grow(risk, recipes, nothing, "all")
            for recipes in (SMALL, by_label)
        )
        return [
            a.model_to_string() == b.model_to_string() for a, b in zip(gain, label, strict=True)
        ]

    assert grown("sepsis") == [False, False]
    assert grown("mortality") == [True, True]
