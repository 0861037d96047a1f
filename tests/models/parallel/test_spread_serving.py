"""A predictor whose specialists lie in other processes says what one process says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from models.parallel.serving import HostLost, SpreadPredictor
from models.predictor import Predictor
from streaming.model import Predictions

NUMBERS = tuple(name for name in Predictions.__dataclass_fields__ if name != "text")


@pytest.fixture(scope="module")
def spread(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[SpreadPredictor]:
    """The shipped model over two processes; this one has been a rank of others before."""
    monkeypatch_module.setenv("GLOO_SOCKET_IFNAME", "lo")
    SpreadPredictor(None, ["cpu", "cpu"]).close()
    found = SpreadPredictor(None, ["cpu", "cpu"])
    yield found
    found.close()


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    """Like `monkeypatch`, for a module."""
    with pytest.MonkeyPatch.context() as found:
        yield found


def _windows(ward, store) -> None:
    for slot in range(12):
        ward.feed(store, slot, ward.stay(slot, hours=1 + slot * 5 % 60))


def test_it_says_what_one_process_says(spread: SpreadPredictor, ward) -> None:
    """Probabilities, bounds, shares, scores and drivers, of the shipped weights with their trees;
    and a row says the same bits in every batch.
    """
    model, version = checkpoint.load(checkpoint.SHIPPED)
    alone = Predictor(model, version, engine="torch")
    store = alone.store(12)
    _windows(ward, store)
    slots = np.arange(12, dtype=np.int32)
    want, got = alone.predict(store.gather(slots)), spread.predict(store.gather(slots))

    for name in NUMBERS:
        ours, theirs = getattr(got, name), getattr(want, name)
        if ours.dtype.kind == "f":
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(ours, theirs, name)
    assert spread.version == alone.version
    some = spread.predict(store.gather(slots[[7, 3, 11]]))
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(some, name), getattr(got, name)[[7, 3, 11]], name)


def test_a_lost_process_is_told_and_nothing_is_left_behind(spread: SpreadPredictor, ward) -> None:
    """The stream gives the device up; closing afterwards ends what is left."""
    store = spread.store(12)
    _windows(ward, store)
    spread._hosts[0].kill()
    spread._hosts[0].wait()
    with pytest.raises(HostLost, match="ended with -9"):
        spread.predict(store.gather(np.array([0], np.int32)))
    spread.close()
    assert not torch.distributed.is_initialized()
    with pytest.raises(HostLost, match="closed"):
        spread.predict(store.gather(np.array([0], np.int32)))


def test_a_model_that_is_none_starts_no_process(tmp_path: Path) -> None:
    """The file is read before anything else."""
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(checkpoint.BadCheckpoint):
        SpreadPredictor(tmp_path / "model.safetensors", ["cpu", "cpu"])
