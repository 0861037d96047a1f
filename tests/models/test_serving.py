"""The fused form that is served says what the network that was trained says."""

from __future__ import annotations

import numpy as np
import torch

from models import explain
from models.features import of_cases
from models.predictor import Predictor


def test_served_numbers_are_the_networks(predictor: Predictor, ward) -> None:
    """Risks, bounds, shares and novelty within 1e-5, effects of the drivers within 1e-4."""
    store = predictor.store(12)
    for slot in range(12):
        ward.feed(store, slot, ward.stay(slot, hours=1 + 3 * slot))
    windows = store.gather(np.arange(12, dtype=np.int32))
    model = predictor._model
    network, calibration = model.network, model.calibration

    served = predictor.predict(windows)

    with torch.inference_mode():
        signals, minutes = network.features.of_windows(windows, slice(None))
        static = np.stack([predictor._cases(case) for case in windows.cases])
        case = torch.from_numpy(of_cases(static, windows.newest_ms, windows.phase_ms))
        log_odds, said = model(signals, minutes, case)
        p, low, high = calibration.bounds(log_odds, said.novelty)
        _, effect = explain.effects(model, said, log_odds, signals, minutes, case)
    for ours, reference in (
        (served.p, p),
        (served.low, low),
        (served.high, high),
        (served.share, said.share),
        (served.novelty, said.novelty),
    ):
        np.testing.assert_allclose(ours, reference.double().numpy(), atol=1e-5)
    np.testing.assert_allclose(
        np.sort(np.abs(served.driver_effect), 1), np.sort(effect.abs().numpy(), 1), atol=1e-4
    )
