"""Rows that ranks learn from, made on the fly."""

from __future__ import annotations

from typing import Any

import numpy as np

from models.features import D, E, F, V
from models.network import RISKS
from models.signals import COUNT
from models.training.cache import Table

ROWS = 1500


def table(seed: int = 0) -> Table:
    """Rows whose risks follow from what is seen; two steps an epoch."""
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((ROWS, COUNT, D)).astype(np.float16)
    labels = (signals[:, : len(RISKS), 0] > 0.5).astype(np.int8)
    labels[rng.random(labels.shape) < 0.3] = -1
    zeros = np.zeros(ROWS, np.int8)
    given = {
        "signals": signals,
        "minutes": rng.standard_normal((ROWS, V, E)).astype(np.float16),
        "case": rng.standard_normal((ROWS, F)).astype(np.float16),
        "labels": labels,
        "stay": np.arange(ROWS) // 10,
        "hour": np.arange(ROWS) % 10,
        "source": (np.arange(ROWS) // 10 % 3).astype(np.int8),
        "expert": rng.integers(-1, 4, ROWS).astype(np.int8),
        "record": np.char.add("p", (np.arange(ROWS) // 10).astype(str)),
    }
    return Table(**{name: given.get(name, zeros) for name in Table.__slots__})


def taught() -> np.ndarray[Any, np.dtype[np.float32]]:
    """What trees say of them: of sepsis alone."""
    said = np.full((ROWS, len(RISKS)), np.nan, np.float32)
    said[:, 0] = np.random.default_rng(1).random(ROWS)
    return said
