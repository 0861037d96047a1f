"""The shipped network learns over hospitals as it would over all their rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.federated import learning
from models.federated.course import Material, Plan
from models.federated.fixed_point import FixedPoint
from models.federated.messages import Recipe
from models.federated.plans import plan_of
from models.federated.simulation import FRESH, START, auroc, federate, sites_of, train
from models.training.cache import Table


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


def test_processes_of_the_command_line_end_where_plain_averaging_ends(
    tmp_path: Path, few_rows: Callable[[int, int], Table]
) -> None:
    """`federate serve` and three `federate join`: two rounds equal FedAvg without any masks."""
    train = few_rows(750, 1)
    sites = {name: train.select(rows) for name, rows in sites_of(train).items()}
    shipped, _ = learning.base(None, None)
    start = tmp_path / START
    learning.save(shipped, learning.flat(shipped), None, start, {"succeeded": 0, "federation": ""})
    for name, table in sites.items():
        learning.write(tmp_path / name / learning.ROWS, table)
    options = ["--strategy", "fedavg", "--rounds", "2", "--fresh", str(FRESH), "--no-calibrate"]
    federate(tmp_path, list(sites), options)
    network, _ = learning.base(start, 7)
    first = model = learning.flat(network)
    for number in (1, 2):
        updates = [
            learning.NetworkLearner(network, table, rate=1e-3).train(model, number)
            for table in sites.values()
        ]
        rows = sum(count for _, count in updates)
        model = model + sum(update * (count / rows) for update, count in updates).astype("f4")
    learnt, _ = learning.base(tmp_path / "hub" / "model.safetensors", None)
    assert len(sites) == 3
    assert np.abs(model - first).mean() > 1e-4
    plan = Plan()
    numbers = FixedPoint(clients=3, clip=plan.clip)
    # Half a step of rounding for each site and round, as heavy as the weights are light.
    rounding = 2 * 3 * numbers.step / 2 * plan.max_weight / rows
    assert np.abs(learning.flat(learnt) - model).mean() < rounding


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
    plain = learner.answer(Recipe(kind="gradient", share=1.0), material, 1)
    cosine = loose.values @ plain.values / np.linalg.norm(loose.values)
    assert cosine / np.linalg.norm(plain.values) > 0.5
