"""Made-up patients for the tests of a federation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.features import CASE_FEATURES, D, E, F, V
from models.network import RISKS
from models.signals import COUNT
from models.training.cache import Table


def _few_rows(rows: int, seed: int) -> Table:
    """The first signal's newest value says every risk; three kinds of unit, all to train on."""
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


@pytest.fixture
def few_rows() -> Callable[[int, int], Table]:
    """Makes a table of rows, by a seed."""
    return _few_rows
