"""Rounds over time: deadlines, rounds given up, state on disk; strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.federated.client import Client
from models.federated.course import Course, Plan
from models.federated.errors import ProtocolError, Replay
from models.federated.hub import Hub
from models.federated.messages import PHASES
from models.federated.strategy import Strategy

KEYS = {f"site-{i}": Ed25519PrivateKey.generate() for i in range(6)}
ROSTER = {name: key.public_key() for name, key in KEYS.items()}
PLAN = Plan(rounds=2, clip=8.0, max_weight=10, gather_s=100.0, phase_s=10.0)


def _hub(folder: Path, plan: Plan = PLAN, now_s: float = 0.0) -> Hub:
    return Hub(folder, ROSTER, Course(plan, np.zeros(5, np.float32)), now_s)


def _play(hub: Hub, names: list[str], clients: dict[str, Any], now_s: float) -> None:
    """Let the named sites speak in the hub's phase; each one's update is its number."""
    assert hub.round is not None
    task, phase = hub.round.state.task, hub.round.phase
    for name in names:
        if phase == "advertise":
            clients[name] = Client(name, KEYS[name], ROSTER, task)
            said = clients[name].advertise()
        else:
            told = hub.answer(name, task.number, PHASES[PHASES.index(phase) - 1])
            site = int(name[-1])
            update = np.full(5, site, np.float32) * np.float32((site + 1) / task.max_weight)
            more = (update, site + 1) if phase == "mask" else ()
            said = getattr(clients[name], phase)(told, *more)
        hub.receive(name, task.number, said, now_s)


def test_a_phase_ends_when_all_have_spoken_or_the_time_is_up(tmp_path: Path) -> None:
    """Nobody is waited for longer than the phase; a third may be missing."""
    hub, clients, names = _hub(tmp_path), {}, sorted(KEYS)
    _play(hub, names[:3], clients, 1.0)
    assert not hub.tick(1000.0)
    _play(hub, names[3:4], clients, 1000.0)
    assert not hub.tick(1099.0)
    assert hub.tick(1100.0)
    for phase in ("share", "mask", "agree", "unmask"):
        assert hub.round is not None
        assert hub.round.phase == phase
        _play(hub, names[:4], clients, 1101.0)
    assert hub.past[-1].clients == tuple(names[:4])
    expected = sum(i * (i + 1) for i in range(4)) / sum(i + 1 for i in range(4))
    np.testing.assert_allclose(hub.model, expected, atol=1e-6)


def test_a_round_that_too_few_finish_is_given_up_for_a_new_number(tmp_path: Path) -> None:
    """The model stays; a message of the old round is a replay."""
    hub, clients, names = _hub(tmp_path), {}, sorted(KEYS)
    _play(hub, names, clients, 1.0)
    _play(hub, names[:3], clients, 2.0)
    assert hub.round is not None
    old = hub.round.state.task
    assert hub.tick(12.0)
    assert hub.past[-1].failure == "share: too_few"
    assert hub.round is not None
    assert hub.round.state.task.number == 2
    assert not hub.model.any()
    late = Client(names[3], KEYS[names[3]], ROSTER, old).advertise()
    for number in (1, 2):
        with pytest.raises(Replay):
            hub.receive(names[3], number, late, 13.0)


def test_a_killed_server_goes_on_after_every_message(tmp_path: Path) -> None:
    """A hub made anew of its folder after each phase ends with the same model as one that lived."""
    lived, died = _hub(tmp_path / "a"), _hub(tmp_path / "b")
    for hub_name in ("lived", "died"):
        hub, clients = (lived if hub_name == "lived" else died), {}
        for _ in range(2):
            for _phase in range(5):
                for name in sorted(KEYS):
                    _play(hub, [name], clients, 1.0)
                    if hub_name == "died":
                        hub = _hub(tmp_path / "b", now_s=1.0)
        assert hub.finished
        if hub_name == "died":
            np.testing.assert_array_equal(hub.model, lived.model)


def test_a_folder_of_another_model_or_strategy_is_refused(tmp_path: Path) -> None:
    """What lies there is never silently replaced."""
    _hub(tmp_path)
    with pytest.raises(ValueError, match="another size"):
        Hub(tmp_path, ROSTER, Course(PLAN, np.zeros(6, np.float32)), 0.0)
    with pytest.raises(ValueError, match="another strategy"):
        _hub(tmp_path, Plan(strategy=Strategy(name="fedadam", rate=0.1)))


def test_counts_of_another_plan_or_edition_are_refused() -> None:
    """They would weigh what is learnt wrongly, or fail rounds later."""
    model = np.zeros(5, np.float32)
    course = Course(Plan(counts=10), model)
    course.counts = tuple(range(10))
    with pytest.raises(ValueError, match="counted by another plan or edition"):
        Course(Plan(counts=11), model).restore(course.state())


def test_a_round_begun_with_other_options_is_given_up_for_a_new_number(tmp_path: Path) -> None:
    """Sites that took part in its number would not do so again."""
    hub = _hub(tmp_path)
    _play(hub, ["site-0"], {}, 1.0)
    other = _hub(tmp_path, Plan(rounds=2, clip=4.0, max_weight=10))
    assert other.round is not None
    assert other.round.state.task.number == 2
    assert other.past[-1].failure == "the task has changed"
    assert _hub(tmp_path, Plan(rounds=2, clip=4.0, max_weight=10)).round.state.task.number == 2


def test_a_round_begun_by_another_edition_is_given_up_for_a_new_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its sites sent is masked as this edition does not unmask: the sum would be noise."""
    with monkeypatch.context() as before:
        before.setattr("models.federated.server.PROTOCOL", 1)
        _play(_hub(tmp_path), ["site-0"], {}, 1.0)
    hub = _hub(tmp_path)
    assert hub.round is not None
    assert hub.round.state.task.number == 2
    assert hub.past[-1].failure == "the task has changed"


def test_a_stranger_changes_nothing(tmp_path: Path) -> None:
    """A message of nobody on the roster is refused."""
    hub = _hub(tmp_path)
    assert hub.round is not None
    said = Client("site-0", KEYS["site-0"], ROSTER, hub.round.state.task).advertise()
    with pytest.raises(ProtocolError):
        hub.receive("stranger", 1, said, 0.0)
    with pytest.raises(ProtocolError):
        hub.receive("site-1", 1, said, 0.0)
    assert not hub.round.heard


def test_fedadam_is_the_published_algorithm() -> None:
    """Two steps by hand; and FedAvg with rate 1 lands on the mean of the sites' models."""
    strategy = Strategy(name="fedadam", rate=0.1, beta1=0.9, beta2=0.99, tau=1e-3)
    model, moments = np.zeros(2, np.float32), strategy.start(2)
    m = v = np.zeros(2)
    x = np.zeros(2)
    for update in (np.array([1.0, -2.0]), np.array([0.5, 0.0])):
        model, moments = strategy.step(model, update, moments)
        m, v = 0.9 * m + 0.1 * update, 0.99 * v + 0.01 * update**2
        x = x + 0.1 * m / (np.sqrt(v) + 1e-3)
    np.testing.assert_allclose(model, x, rtol=1e-6)
    moved, none = Strategy().step(np.ones(2, np.float32), np.array([1.0, 2.0]), [])
    assert moved.tolist() == [2.0, 3.0]
    assert none == []
    with pytest.raises(ValueError, match="shape"):
        Strategy().step(np.ones(2, np.float32), np.ones(3), [])
