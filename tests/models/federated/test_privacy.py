"""Private rounds: noise that survives dropouts, bounds that hold, and what they spend."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.federated.client import Client
from models.federated.course import Course, Material, Plan
from models.federated.errors import Lied
from models.federated.hub import Hub
from models.federated.messages import PHASES, Recipe, Task, usual_threshold
from models.federated.noise import normal, normal_words
from models.federated.outgoing import Contribution, Outgoing
from models.federated.privacy import Budget, Spent, epsilon, of_task, said
from models.federated.server import Round

KEYS = {f"site-{i}": Ed25519PrivateKey.generate() for i in range(6)}
ROSTER = {name: key.public_key() for name, key in KEYS.items()}


def _task(noise: float, *, size: int = 4001, unit: str = "hospital", share: float = 1.0) -> Task:
    return Task(
        federation="private",
        number=1,
        size=size,
        bits=32,
        clip=0.5,
        max_weight=1,
        threshold=usual_threshold(6),
        clients=tuple(sorted(KEYS)),
        model=bytes(32),
        recipe=Recipe(
            kind="gradient",
            norm=0.5 if noise else 0.0,
            noise=noise,
            unit=unit,  # type: ignore[arg-type]
            share=share,
        ),
    )


def _total(task: Task, silent: int) -> np.ndarray:
    """The sum of a round of zeros in which some fall silent before they send their vector."""
    clients = {name: Client(name, key, ROSTER, task) for name, key in KEYS.items()}
    round_, result = Round(task, ROSTER), None
    while round_.phase != "done":
        phase = round_.phase
        for name in list(round_.expected):
            if phase == "mask" and int(name[-1]) < silent:
                continue
            client = clients[name]
            if phase == "advertise":
                round_.receive(name, client.advertise())
                continue
            told = round_.answer(name, PHASES[PHASES.index(phase) - 1])
            more = (np.zeros(task.size - 1, np.float32),) if phase == "mask" else ()
            round_.receive(name, getattr(client, phase)(told, *more))
        result = round_.close()
    assert result is not None
    assert result.weights.tolist() == [6 - silent]
    return result.total


@pytest.mark.parametrize("silent", [0, 2])
def test_the_sum_has_its_noise_even_when_a_third_drops_out(silent: int) -> None:
    """Four of six sites make up the whole standard deviation; six make it larger by half again."""
    total = _total(_task(0.3), silent)
    wanted = 0.3 * 0.5 * math.sqrt((6 - silent) / 4)
    # Five standard errors of a standard deviation of 4,000 numbers.
    assert total.std() == pytest.approx(wanted, rel=5 / math.sqrt(2 * 4000))
    assert abs(total.mean()) < 5 * wanted / math.sqrt(4000)


def test_noise_is_normal_new_each_time_and_fits_its_words() -> None:
    """Quantiles of the normal distribution, no two draws alike, whole steps modulo 2^32."""
    drawn, bell = normal(200_001), NormalDist()
    assert len(drawn) == 200_001
    for value in (0.0, 1.0, -2.0, 3.0):
        quantile = bell.cdf(value)
        # Six standard errors of a quantile: its noise is the system's, and has no seed.
        error = math.sqrt(quantile * (1 - quantile) / len(drawn)) / bell.pdf(value)
        assert np.quantile(drawn, quantile) == pytest.approx(value, abs=6 * error)
    assert np.abs(drawn).max() < 8.6
    assert not np.intersect1d(drawn, normal(1000)).size
    words = normal_words(10_000, 1e6).view(np.int32)
    assert words.std() == pytest.approx(1e6, rel=0.05)


def test_epsilon_is_that_of_the_gaussian_mechanism() -> None:
    """One round without sampling lies a little above the exact epsilon (Balle and Wang 2018)."""
    # Noise 3.73 gives epsilon 1 at delta 1e-5 exactly; Renyi's way of counting adds a little.
    assert 1.0 <= epsilon([Spent(3.73, 1.0, 1)]) < 1.2
    assert epsilon([]) == 0.0
    assert epsilon([Spent(0.0, 1.0, 1)]) == math.inf
    few, more = (epsilon([Spent(1.0, 0.01, rounds)]) for rounds in (100, 1000))
    assert few < more < epsilon([Spent(1.0, 1.0, 1000)])


def test_rounding_counts_as_part_of_what_one_unit_changes() -> None:
    """The accounted noise is a little less than what the operator asked for, never more."""
    task = _task(1.0)
    spent = of_task(task)
    assert 0.999 < spent.noise < 1.0
    assert of_task(_task(1.0, unit="stay", share=0.1)).share == 0.1
    assert of_task(_task(1.0, unit="hospital", share=0.1)).share == 1.0
    card = said(task, 10)
    assert card["unit"] == "hospital"
    assert card["neighbours"] == "one hospital more or less"
    assert card["delta"] == 1e-5
    assert card["epsilon"] == epsilon([Spent(spent.noise, 1.0, 10)])


def test_a_hospital_stops_where_its_own_budget_ends(tmp_path: Path) -> None:
    """What it spent is on disk; a round without noise is refused, whatever the server says."""
    task = _task(4.0)
    budget = Budget(tmp_path / "privacy.json", 3.0)
    with pytest.raises(Lied, match="not private"):
        budget.check(_task(0.0))
    rounds = 0
    with pytest.raises(Lied, match="more than epsilon"):
        while True:
            budget.check(task)
            budget.spend(task)
            rounds += 1
    assert 2 <= rounds < 20
    with pytest.raises(Lied):
        Budget(tmp_path / "privacy.json", 3.0).check(task)


def test_one_hospitals_update_is_bounded_whatever_it_is() -> None:
    """Cut to the bound, of weight 1, and with nothing left over from rounds before."""
    recipe, way = _task(1.0).recipe, Outgoing()
    material = Material(model=np.zeros(8, "<f4").tobytes(), support=b"\xf0")
    large = Contribution(np.full(8, 9.0, np.float32), np.array([500], np.int64))
    for _ in range(2):
        sent = way.prepare(recipe, 1, material, large)
        way.done()
        assert sent.weights.tolist() == [1]
        assert np.linalg.norm(sent.values) == pytest.approx(0.5 / math.sqrt(2), rel=1e-5)
    whole = way.prepare(recipe, 1, msgspec.structs.replace(material, support=b""), large)
    assert np.linalg.norm(whole.values) == pytest.approx(0.5, rel=1e-5)


def test_a_private_federation_neither_counts_nor_calibrates(tmp_path: Path) -> None:
    """What would go out without noise is refused when planning; the card says what was spent."""
    recipe = _task(2.0).recipe
    with pytest.raises(ValueError, match="neither counts"):
        Plan(recipe=recipe, counts=3)
    plan = Plan(recipe=recipe, rounds=1, clip=0.5)
    hub = Hub(tmp_path, ROSTER, Course(plan, np.zeros(5, np.float32)), 0.0)
    assert hub.spent()["rounds"] == 0
    assert hub.spent()["unit"] == "hospital"


def test_noise_that_the_steps_would_swallow_is_refused() -> None:
    """A round whose noise is not many steps of the fixed point cannot be."""
    with pytest.raises(ValueError, match="too small"):
        _task(1e-9).check()
