"""Windows and stays for the model's tests, drawn by seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import derived, native
from models.checkpoint import Calibrated
from models.config import HOUR_MS
from models.data import Admission, Labels, Stay
from models.network import RISKS
from models.predictor import Predictor
from models.signals import COUNT, HIGH, INDEX, LOW
from models.trees import STEP, Trees
from models.window_store import HostWindowStore
from streaming.messages import Case
from streaming.model import Cells

BASE_MS = 1_795_400_000_000


class Ward:
    """Stays, and a store that has been fed them."""

    def stay(self, seed: int, hours: int = 20, minutes: bool = True) -> Stay:
        """A stay with values at irregular minutes."""
        rng = np.random.default_rng(seed)
        step = HOUR_MS // 4 if minutes else HOUR_MS
        times = np.arange(0, hours * HOUR_MS, step, dtype=np.int64)
        n = len(times) * 6
        row = np.sort(rng.integers(0, len(times), n)).astype(np.int32)
        signal = rng.integers(0, COUNT, n)
        signal[::3] = rng.choice([INDEX["hr"], INDEX["map"], INDEX["spo2"]], len(signal[::3]))
        # One value of a signal at a time, as readers give them.
        _, first = np.unique(row.astype(np.int64) * COUNT + signal, return_index=True)
        row, signal = row[first], signal[first].astype(np.int16)
        value = (LOW + (HIGH - LOW) * rng.random((len(row), COUNT)))[np.arange(len(row)), signal]
        case = Admission(age_years=60.0 + seed % 20, sex="female", unit_type="medical")
        sepsis = (np.arange(len(times)) > len(times) // 2).astype(np.int8)
        labels = Labels(sepsis=sepsis, mortality=seed % 2, hospital="A")
        return Stay(
            "physionet2019",
            f"p{seed:06d}",
            case,
            times,
            row,
            signal,
            value.astype(np.float32),
            labels,
        )

    def feed(self, store: HostWindowStore, slot: int, stay: Stay, until: int | None = None) -> None:
        """Feed a stay message by message, as a worker does."""
        known = stay.case
        case = Case(
            bed_id=stay.record,
            case_id=stay.record,
            status="open",
            admitted_ms=BASE_MS,
            age_years=known.age_years,
            sex=known.sex,
            unit_type=known.unit_type,
        )
        store.open(slot, BASE_MS, case)
        for i, ts in enumerate(stay.times_ms.tolist()):
            if until is not None and ts > until:
                break
            at = stay.row == i
            n = int(at.sum())
            slots = np.array([slot], np.int32)
            store.touch(slots, np.array([BASE_MS + ts], np.int64))
            if n:
                store.apply(
                    Cells(
                        np.full(n, slot, np.int32),
                        stay.signal[at],
                        np.full(n, BASE_MS + ts, np.int64),
                        stay.value[at],
                    )
                )


@pytest.fixture
def ward() -> Ward:
    """Makes stays."""
    return Ward()


def _trees(seed: int) -> Trees:
    """Trees of two risks, of uneven depth, that ask anything, sums often."""
    rng = np.random.default_rng(seed)
    trees = Trees(len(RISKS), 21, 15, 16)
    trees.risk[:] = torch.tensor([0] * 10 + [1] * 11)
    for tree in range(21):
        # The n-th node hangs below an end of a node before it.
        ends = [(0, "left"), (0, "right")]
        for node in range(1, int(rng.integers(4, 16))):
            parent, side = ends.pop(int(rng.integers(len(ends))))
            getattr(trees, side)[tree, parent] = node
            ends += [(node, "left"), (node, "right")]
        for leaf, (parent, side) in enumerate(ends):
            getattr(trees, side)[tree, parent] = ~leaf
    sums = len(derived.GROUPS) * len(derived.SUMS)
    any_ = rng.integers(0, derived.Y, trees.feature.shape)
    is_sum = rng.random(trees.feature.shape) < 0.3
    any_[is_sum] = derived.Y - 1 - rng.integers(0, sums, is_sum.sum())
    trees.feature.copy_(torch.from_numpy(any_))
    limit = np.where(is_sum, rng.uniform(0, 6, any_.shape), rng.normal(0, 0.7, any_.shape))
    trees.threshold.copy_(torch.from_numpy(limit))
    trees.leaf.copy_(torch.from_numpy(np.round(rng.normal(0, 0.3, trees.leaf.shape) / STEP) * STEP))
    return trees


@pytest.fixture(scope="module", params=["native", "torch"])
def predictor(request: pytest.FixtureRequest, require) -> Predictor:
    """A network with weights by seed, on the serving engine and on PyTorch."""
    if request.param == "native":
        require("serving engine", native.available(), "models/native/build.py builds it")
    torch.manual_seed(3)
    model = Calibrated(trees=_trees(3))
    model.calibration.blend[:, 1] = 0.5
    model.calibration.knots += torch.rand(model.calibration.knots.shape).double()
    model.network.features.centre_S.copy_(torch.from_numpy((LOW + HIGH) / 2))
    model.network.features.spread_S.copy_(torch.from_numpy((HIGH - LOW) / 3))
    novelty = model.network.novelty
    novelty.centre.uniform_(-0.5, 0.5)
    novelty.whiten.normal_(0.0, 0.015)
    novelty.pattern_knots.copy_(torch.tensor([0.2, 0.8, 1.2, 1.6, 4.8]))
    return Predictor(model, "test", engine=request.param)
