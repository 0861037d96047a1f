"""The engine's scores are those of `models.scores`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import native
from models.native.charts import Charts
from models.scores import SCORE_INPUTS, TABLES, score
from models.signals import COUNT, HIGH, INDEX, LOW


@pytest.fixture(autouse=True)
def engine(require) -> None:
    """These tests need the library."""
    require("serving engine", native.available(), "models/native/build.py builds it")


def limits(name: str) -> list[float]:
    """Every boundary that a table has for an input."""
    found = []
    for table in TABLES["scores"].values():
        for row in table.get("parts", ()):
            if row["input"] == name:
                found += [upper for upper, _ in row["bands"][:-1]]
        for conditions in table.get("criteria", ()):
            found += [bound for said, _, bound in conditions if said == name]
    return found


@given(st.integers(0, 1 << 30), st.integers(1, 40))
def test_scores_are_the_references(seed: int, rows: int) -> None:
    """Any values, many on a boundary or half a step off it, many missing, on both scales."""
    rng = np.random.default_rng(seed)
    value = (LOW + (HIGH - LOW) * rng.random((rows, COUNT))).astype(np.float32)
    for name in (*SCORE_INPUTS, "fio2"):
        column = value[:, INDEX[name]]
        edges = [0.21, *limits(name)]
        steps = rng.choice([0.0, 0.05, -0.05, 0.5, -0.5, 1.0, -1.0], rows)
        column[:] = np.where(rng.random(rows) < 0.5, rng.choice(edges, rows) + steps, column)
        column[rng.random(rows) < 0.3] = np.nan
    for name in ("acvpu", "on_oxygen"):
        value[:, INDEX[name]] = np.round(np.clip(value[:, INDEX[name]], 0, 3))
    scale = rng.integers(1, 3, rows)
    expected, lacks = score(value, scale)
    said, missing = Charts()(value, scale)
    np.testing.assert_array_equal(said, expected)
    np.testing.assert_array_equal(missing, lacks)
