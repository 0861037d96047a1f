"""The shipped network learns over hospitals as it would over all their rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.federated import learning, lesson
from models.federated.course import Material
from models.federated.messages import Recipe
from models.federated.plans import plan_of
from models.federated.simulation import FRESH, START, auroc, federate, sites_of, train
from models.network import RISKS, Network
from models.training.cache import Table
from models.training.split import PARTS


def test_a_vector_is_the_network() -> None:
    """Filling with a flat vector gives it back; another size is refused."""
    network, _ = learning.base(None, 3)
    vector = learning.flat(network) + 1
    learning.fill(network, vector)
    np.testing.assert_array_equal(learning.flat(network), vector)
    with pytest.raises(ValueError, match="parameters"):
        learning.fill(network, vector[:-1])


def test_an_update_follows_from_rows_model_and_round(
    tmp_path: Path, few_rows: Callable[[int, int], Table]
) -> None:
    """The same again, also through a file of rows; another round draws anew."""
    table = few_rows(200, 0)
    learning.write(tmp_path / learning.ROWS, table)
    network, _ = learning.base(None, 3)
    start = learning.flat(network)
    found = [
        learning.NetworkLearner(network, rows, rate=1e-3).train(start, number)
        for rows, number in (
            (table, 1),
            (learning.rows_of(tmp_path, tmp_path, network), 1),
            (table, 2),
        )
    ]
    assert found[0][1] == 200
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][0] != found[2][0]).any()


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    """One line says what is missing."""
    network, _ = learning.base(None, None)
    with pytest.raises(ValueError, match="neither"):
        learning.rows_of(tmp_path, tmp_path, network)


def test_processes_of_the_command_line_end_where_sums_without_masks_end(
    tmp_path: Path, few_rows: Callable[[int, int], Table]
) -> None:
    """`federate serve` and three `federate join`: counted, learnt, calibrated, written."""
    table = few_rows(1200, 1)
    table.part[900:] = PARTS.index("calibrate")
    sites = {name: table.select(rows) for name, rows in sites_of(table).items()}
    assert len(sites) == 3
    shipped, _ = learning.base(None, None)
    start = tmp_path / START
    learning.save(shipped, learning.flat(shipped), None, start, {"succeeded": 0, "federation": ""})
    for name, rows in sites.items():
        learning.write(tmp_path / name / learning.ROWS, rows)
    options = ["--rounds", "3", "--share", "0.5", "--rate", "0.01", "--fresh", str(FRESH)]
    federate(tmp_path, list(sites), options)
    plan = plan_of("alike", rounds=3, share=0.5, rate=0.01)
    network, _ = learning.base(start, FRESH)
    course = train(plan, network, list(sites.values()))
    assert course.curves is not None
    learnt, _ = checkpoint.load(tmp_path / "hub" / "model.safetensors")
    moved = np.abs(learning.flat(learnt.network) - course.model)
    # Adam steps by the sign where a gradient is not above the fixed point's rounding.
    assert np.quantile(moved, 0.95) < 1e-4
    for risk in range(len(RISKS)):
        slope, intercept = course.curves.platt(risk) or (0.0, 0.0)
        assert float(learnt.calibration.slope[risk]) == pytest.approx(slope, rel=0.02)
        assert float(learnt.calibration.intercept[risk]) == pytest.approx(intercept, abs=0.02)
    card = checkpoint.card(tmp_path / "hub" / "model.safetensors")
    assert card["federated"]["calibrated"] == list(RISKS)
    assert card["federated"]["rounds"] == 6
    assert "note" not in card
    assert len(learnt.trees.risk) == 0


def test_averaging_models_over_hospitals_follows_the_plain_mean(
    few_rows: Callable[[int, int], Table],
) -> None:
    """FedAvg in a simulation is the mean of the hospitals' models, weighted by rows."""
    table = few_rows(750, 1)
    sites = [table.select(rows) for rows in sites_of(table).values()]
    network, _ = learning.base(None, FRESH)
    model = learning.flat(network)
    for number in (1, 2):
        updates = [
            learning.NetworkLearner(network, rows, rate=1e-3).train(model, number) for rows in sites
        ]
        total = sum(count for _, count in updates)
        model = model + sum(update * (count / total) for update, count in updates).astype("f4")
    network, _ = learning.base(None, FRESH)
    course = train(plan_of("mean", rounds=2, strategy="fedavg", calibrate=False), network, sites)
    # Adam magnifies the rounding of the first round in some entries of the second.
    assert np.quantile(np.abs(course.model - model), 0.999) < 1e-6
    np.testing.assert_allclose(course.model, model, atol=1e-4)


def test_a_federation_without_masks_follows_pooled_training(
    few_rows: Callable[[int, int], Table],
) -> None:
    """Rounds of balanced gradients over three sites end where as many over all their rows do."""
    table = few_rows(900, 5)
    sites = [table.select(rows) for rows in sites_of(table).values()]
    assert len(sites) == 3
    plan = plan_of("test", rounds=12, share=0.5, rate=1e-2, calibrate=False)
    ends = []
    for rows in (sites, [table]):
        network, _ = learning.base(None, FRESH)
        course = train(plan, network, rows)
        assert course.counts[0] == 900
        ends.append(auroc(network, table)["mortality"])
    assert min(ends) > 0.95
    assert abs(ends[0] - ends[1]) < 0.01


def _held(network: Network, material: Material) -> np.ndarray:
    """The gradient of what holds the gate back from the signals."""
    learning.fill(network, material.parameters)
    weight = network.gate.first.weight
    held = torch.autograd.grad(lesson.restraint(network), [weight])[0]
    parts = [held if p is weight else torch.zeros_like(p) for p in network.parameters()]
    return torch.nn.utils.parameters_to_vector(parts).numpy()


def test_the_gate_is_held_back_once_a_step_and_not_where_an_update_is_bounded(
    few_rows: Callable[[int, int], Table],
) -> None:
    """Beside the rows' own gradient in a plain round; a private one says what the rows say."""
    network, _ = learning.base(None, FRESH)
    learner = learning.NetworkLearner(network, few_rows(70, 8))
    material = Material(model=learning.flat(network).tobytes())
    plain = Recipe(kind="gradient", share=1.0)
    private = Recipe(kind="gradient", share=1.0, norm=1.0, noise=1.0)
    held = _held(network, material)
    with_it, alone = (learner.answer(recipe, material, 1).values for recipe in (plain, private))
    np.testing.assert_allclose(alone - with_it, held, atol=1e-5)
    assert np.linalg.norm(held) > 1.0


def test_gradients_of_stays_are_bounded_one_by_one(
    few_rows: Callable[[int, int], Table],
) -> None:
    """Every stay drawn: a sum of bounded gradients; a bound that none reaches changes nothing."""
    table = few_rows(70, 8)
    network, _ = learning.base(None, FRESH)
    learner = learning.NetworkLearner(network, table)
    material = Material(model=learning.flat(network).tobytes())
    tight, loose = (
        learner.answer(
            Recipe(kind="gradient", share=1.0, norm=norm, noise=1.0, unit="stay"), material, 1
        )
        for norm in (1e-3, 1e6)
    )
    assert tight.weights.tolist() == loose.weights.tolist() == [70]
    assert 0 < np.linalg.norm(tight.values) <= 70 * 1e-3 * 1.0001
    # What is hidden from the rows is drawn anew each time: the direction is what must agree.
    plain = learner.answer(Recipe(kind="gradient", share=1.0), material, 1).values
    plain = plain + _held(network, material)
    cosine = loose.values @ plain / np.linalg.norm(loose.values)
    assert cosine / np.linalg.norm(plain) > 0.5
