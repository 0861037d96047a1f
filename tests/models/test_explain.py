"""Drivers: what they say is what the network does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.features import VITAL_AT
from models.predictor import Predictor


def test_an_effect_is_the_risk_without_the_signal(predictor: Predictor, ward) -> None:
    """The same as making the signal never measured in the features, the shares as they are."""
    network = predictor._model.network
    from models.training.rows import rows_of

    rows = rows_of(ward.stay(5))
    with torch.inference_mode():
        signals, minutes = network.features.of_windows(rows.windows, slice(None))
        case = torch.zeros(len(signals), len(network.of_case))
        said = network(signals, minutes, case)
        without = network.without(said, signals, minutes)
        for signal in (0, 1, 7, 20):
            gone, less = signals.clone(), minutes.clone()
            gone[:, signal] = network.absent_D
            if signal in VITAL_AT:
                less[:, VITAL_AT.index(signal)] = 0
            other = network(gone, less, case)
            each = (network.experts(other.hidden) * said.share.unsqueeze(2)).sum(1)
            torch.testing.assert_close(without[:, signal], each, atol=1e-4, rtol=1e-4)


def test_the_strongest_driver_is_first_and_signed(predictor: Predictor, ward) -> None:
    """Of the risk highest above its threshold."""
    store = predictor.store(1)
    ward.feed(store, 0, ward.stay(2))
    said = predictor.predict(store.gather(np.array([0], np.int32)))
    assert said.driver_signal[0, 0] >= 0
    assert abs(said.driver_effect[0, 0]) == pytest.approx(np.abs(said.driver_effect[0]).max())
