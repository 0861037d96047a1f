"""The shipped network learns over hospitals as it would over all their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.features import CASE_FEATURES, D, E, F, V
from models.federated import learning
from models.federated.course import Plan
from models.federated.fixed_point import FixedPoint
from models.federated.simulation import FRESH, START, federate, sites_of
from models.network import RISKS
from models.signals import COUNT
from models.training.cache import Table


def _table(rows: int, seed: int) -> Table:
    """Rows in which the first signal's newest value says every risk."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(0, 1, (rows, COUNT, D)).astype(np.float16)
    case = np.zeros((rows, F), np.float16)
    unit = rng.integers(0, 3, rows)
    case[np.arange(rows), CASE_FEATURES.index("medical") + unit] = 1
    label = (signals[:, 0, 0].astype(np.float32) + rng.normal(0, 0.5, rows) > 0).astype(np.int8)
    given: dict[str, Any] = {
        "signals": signals,
        "minutes": rng.normal(0, 1, (rows, V, E)).astype(np.float16),
        "case": case,
        "labels": np.repeat(label[:, None], len(RISKS), 1),
        "stay": np.arange(rows),
        "hour": np.zeros(rows, np.int64),
        "expert": np.full(rows, -1, np.int8),
    }
    return Table(**{name: given.get(name, np.zeros(rows, np.int8)) for name in Table.__slots__})


def test_a_vector_is_the_network() -> None:
    """Filling with a flat vector gives it back; another size is refused."""
    network, _ = learning.base(None, 3)
    vector = learning.flat(network) + 1
    learning.fill(network, vector)
    np.testing.assert_array_equal(learning.flat(network), vector)
    with pytest.raises(ValueError, match="parameters"):
        learning.fill(network, vector[:-1])


def test_an_update_follows_from_rows_model_and_round(tmp_path: Path) -> None:
    """The same again, also through a file of rows; another round draws anew."""
    table = _table(200, 0)
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


def test_processes_of_the_command_line_end_where_plain_averaging_ends(tmp_path: Path) -> None:
    """`federate serve` and three `federate join`: two rounds equal FedAvg without any masks."""
    train = _table(750, 1)
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
