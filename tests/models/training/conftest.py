"""Rows of many stays whose outcomes follow from what is seen, drawn by seed."""

from __future__ import annotations

import numpy as np
import pytest

from models.features import D, E, F, V
from models.network import RISKS
from models.signals import COUNT
from models.training.cache import Table

STAYS, HOURS = 300, 20


def drawn(seed: int = 0) -> Table:
    """Stays of two hospitals in five folds; every risk follows from the first signal."""
    rng = np.random.default_rng(seed)
    n = STAYS * HOURS
    stay = np.repeat(np.arange(STAYS), HOURS)
    level = rng.normal(size=STAYS)[stay] + 0.5 * rng.normal(size=n)
    signals = rng.normal(0, 0.3, (n, COUNT, D)).astype(np.float16)
    signals[:, :, 1] = 0
    signals[:, 0, 0] = level
    hour = np.tile(np.arange(HOURS), STAYS)
    labels = (level[:, None] + rng.normal(size=(n, len(RISKS))) > 1.5).astype(np.int8)
    septic = (level.reshape(STAYS, HOURS).mean(1) > 0.8)[stay]
    labels[:, 0] = septic & (hour >= 12)
    labels[:, 1] = septic
    zeros = np.zeros(n, np.int8)
    return Table(
        signals,
        rng.normal(0, 0.3, (n, V, E)).astype(np.float16),
        np.zeros((n, F), np.float16),
        labels,
        stay,
        hour,
        zeros,
        zeros + (stay % 2).astype(np.int8),
        zeros - 1,
        (stay % 2).astype(np.int8),
        (stay % 5).astype(np.int8),
        np.char.add("p", stay.astype(str)),
    )


@pytest.fixture
def table() -> Table:
    """Of seed 0."""
    return drawn()
