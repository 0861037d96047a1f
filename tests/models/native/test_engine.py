"""The serving engine says what PyTorch says of the same model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import native
from models.features import of_cases
from models.predictor import EngineMissing, Predictor


@pytest.fixture(autouse=True)
def engine(require) -> None:
    """These tests need the library."""
    require("serving engine", native.available(), "models/native/build.py builds it")


def gathered(predictor: Predictor, ward, count: int = 24, bins: int | None = None):
    store = predictor.store(count)
    for slot in range(count):
        ward.feed(store, slot, ward.stay(slot, hours=1 + slot * 3 % 90, minutes=slot % 3 > 0))
    return store.gather(np.arange(count, dtype=np.int32), bins)


def case_of(predictor: Predictor, windows):
    static = np.stack([predictor._cases(case) for case in windows.cases])
    return of_cases(static, windows.newest_ms, windows.phase_ms)


@pytest.mark.parametrize("bins", [None, 72])
def test_features_have_the_references_bits(predictor: Predictor, ward, bins) -> None:
    """Every feature of every window, padded or not."""
    windows = gathered(predictor, ward, bins=bins)
    engine = native.Native(predictor._model)
    signals, minutes = engine.features(windows, case_of(predictor, windows))
    with torch.inference_mode():
        expected = predictor._model.network.features.of_windows(windows, slice(None))
    np.testing.assert_array_equal(signals, expected[0].numpy())
    np.testing.assert_array_equal(minutes, expected[1].numpy())


def test_numbers_are_pytorchs(predictor: Predictor, ward) -> None:
    """Risks, bounds, shares and novelty within 2e-6, effects of drivers within 2e-5."""
    windows = gathered(predictor, ward)
    torch_said = Predictor(predictor._model, "test", engine="torch").predict(windows)
    said = Predictor(predictor._model, "test", engine="native").predict(windows)
    for name in ("p", "low", "high", "share", "novelty"):
        np.testing.assert_allclose(
            getattr(said, name), getattr(torch_said, name), rtol=0, atol=2e-6, err_msg=name
        )
    np.testing.assert_allclose(said.driver_effect, torch_said.driver_effect, atol=2e-5)
    np.testing.assert_array_equal(said.positive, torch_said.positive)
    apart = np.abs(np.abs(said.driver_effect[:, 1:]) - np.abs(said.driver_effect[:, :-1]))
    clear = (apart > 1e-4).all(1)
    assert clear.sum() > 12
    np.testing.assert_array_equal(said.driver_signal[clear], torch_said.driver_signal[clear])


def test_threads_change_no_bit(predictor: Predictor, ward) -> None:
    """Rows are worked out one by one, whoever does it."""
    windows = gathered(predictor, ward, 60)
    alone = native.Native(predictor._model)
    several = native.Native(predictor._model, threads=3)
    case = case_of(predictor, windows)
    for name, expected in alone.predict(windows, case).items():
        np.testing.assert_array_equal(several.predict(windows, case)[name], expected, name)


def test_a_library_that_is_not_there_is_said(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for the engine does not get another."""
    monkeypatch.setattr(native, "available", lambda: False)
    with pytest.raises(EngineMissing, match="make install"):
        Predictor(predictor._model, "test", engine="native")
    assert Predictor(predictor._model, "test").engine == "torch"
