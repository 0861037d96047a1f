"""A worker with a tiny deterministic model, for runs in which its numbers do not matter."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from app.lifecycle import serve
from app.roles.ops import Operations
from app.roles.worker import Worker
from app.settings import load
from models.config import GRID
from models.window_store import HostWindowStore
from streaming.model import Predictions


class TinyModel:
    """Numbers that are a function of the window alone; no network."""

    name = "tiny"
    version = "0"
    grid_digest = GRID.digest
    risks = ("sepsis", "mortality", "hypotension", "hypoxaemia")
    experts = ("general", "oncology", "cardiology", "rare_disease")
    scores = ("news2", "qsofa", "mews", "sirs", "shock_index")
    score_inputs = ("resp", "spo2", "sbp")
    length_buckets = (6, 24, 72)

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def store(self, capacity: int) -> HostWindowStore:
        """Windows on the default grid."""
        return HostWindowStore(GRID, capacity)

    def predict(self, windows: Any) -> Predictions:
        """Risks from sums over the window, so that every value in it counts."""
        rows = len(windows)
        known = windows.newest_age_ms >= 0
        value = np.where(known, windows.newest_value, 0).astype(np.float64)
        minutes = np.nan_to_num(windows.minutes.astype(np.float64)).sum((1, 2))
        hours = np.nan_to_num(windows.hours.astype(np.float64)).sum((1, 2))
        base = (value.sum(1) + minutes * 0.37 + hours * 0.11) % 1.0
        p = np.stack([(base * (i + 1)) % 1.0 for i in range(4)], 1)
        return Predictions(
            speaks=known.sum(1) > 1,
            p=p,
            low=p * 0.9,
            high=p * 0.9 + 0.1,
            positive=p > 0.5,
            share=np.tile([0.7, 0.1, 0.1, 0.1], (rows, 1)),
            novelty=base,
            score=np.tile([1.0, np.nan, 2.0, 0.0, 0.5], (rows, 1)),
            score_missing=np.zeros((rows, 5), np.uint32),
            input_value=windows.newest_value,
            input_age_ms=windows.newest_age_ms,
            driver_signal=np.tile(np.array([0, 1, -1], np.int16), (rows, 1)),
            driver_effect=np.tile([0.3, -0.2, 0.0], (rows, 1)),
        )


def tiny(path: Path | None, device: str, threads: int) -> TinyModel:
    """Stands in for `models.predictor.load`."""
    return TinyModel(device)


def main() -> None:
    """Run a worker with settings from the environment."""
    settings = load()
    worker = Worker(settings, load=tiny)
    asyncio.run(serve([Operations(settings, lambda: (b"", "text/plain"), worker.health), worker]))


if __name__ == "__main__":
    main()
