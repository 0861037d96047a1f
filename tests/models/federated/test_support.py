"""Common support: the same entries for all, the rest is remembered, the masks still cancel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.federated import support
from models.federated.course import Course, Material, Plan
from models.federated.messages import Recipe
from models.federated.outgoing import Contribution, Outgoing
from models.federated.server import Result
from models.federated.strategy import Strategy


@given(size=st.integers(1, 300), keep=st.floats(0.01, 1.0), number=st.integers(1, 9))
def test_a_support_survives_the_wire(size: int, keep: float, number: int) -> None:
    """Ascending entries, each once, as many as wanted; the same after packing."""
    second = np.random.default_rng(number).random(size)
    chosen = support.choose(size, keep, number, second)
    assert len(chosen) == max(1, round(keep * size))
    assert (np.diff(chosen) > 0).all()
    assert support.unpack(support.pack(chosen, size), size).tolist() == chosen.tolist()
    with pytest.raises(ValueError, match="support"):
        support.unpack(support.pack(chosen, size) + b"x", size)


def test_the_largest_are_sent_and_every_entry_gets_its_turn() -> None:
    """Half the support is the top of what is public; the drawn half reaches all entries."""
    second = np.zeros(200)
    second[:10] = 5.0
    seen = set()
    for number in range(1, 120):
        chosen = support.choose(200, 0.1, number, second)
        assert set(range(10)) <= set(chosen.tolist())
        seen |= set(chosen.tolist())
    assert len(seen) == 200


def test_what_is_left_out_is_sent_later() -> None:
    """Over rounds that together ask for every entry, nothing of the updates is lost."""
    way, sent = Outgoing(), np.zeros(16)
    recipe = Recipe(kind="gradient", support=True)
    update = np.arange(16, dtype=np.float32)
    for number in range(4):
        entries = np.arange(number * 4, number * 4 + 4)
        material = Material(model=np.zeros(16, "<f4").tobytes(), support=support.pack(entries, 16))
        said = way.prepare(recipe, 10, material, Contribution(update, np.array([10])))
        way.done()
        sent[entries] += said.values
    # An entry that is asked for in round k brings k + 1 rounds' worth with it.
    np.testing.assert_allclose(sent, update * (np.arange(16) // 4 + 1))


def test_an_update_that_did_not_go_through_leaves_nothing_behind() -> None:
    """Only a round that ended well changes what is remembered."""
    way, recipe = Outgoing(), Recipe(kind="gradient", support=True)
    material = Material(model=np.zeros(4, "<f4").tobytes(), support=support.pack(np.array([0]), 4))
    said = Contribution(np.ones(4, np.float32), np.array([1]))
    way.prepare(recipe, 1, material, said)
    again = way.prepare(recipe, 1, material, said)
    assert again.values.tolist() == [1.0]


def test_the_server_moves_only_what_was_sent() -> None:
    """Other entries and their moments stay to the bit."""
    plan = Plan(
        rounds=2,
        keep=0.25,
        recipe=Recipe(kind="gradient"),
        strategy=Strategy(name="fedadamw", rate=0.1, tau=1e-8),
        max_weight=1,
    )
    course = Course(plan, np.zeros(8, np.float32))
    ask = course.ask(1, 3)
    assert ask.values == 2
    entries = ask.material.entries
    assert entries is not None
    course.learn(ask, Result(np.ones(2), np.array([1]), ()))
    moved = np.nonzero(course.model)[0]
    assert set(moved.tolist()) <= set(entries.tolist())
    other = Course(plan, np.zeros(8, np.float32))
    other.restore(course.state())
    assert other.state() == course.state()
    assert other.ask(2, 3) == course.ask(2, 3)
