"""Drivers: which signals make the leading risk what it is.

The effect of a signal is the calibrated log-odds minus what they would be had it never been
measured, the rest of the window as it is, and so are the experts' shares and the likeness to a
hospital. The leading risk is the one highest above its threshold, in log-odds. Exact, not sampled:
it is the network and the trees themselves, run once for every signal.

Axes: B windows, S signals, R risks, K drivers.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from models.calibration import Calibration
from models.checkpoint import Calibrated
from models.features import VITAL_AT
from models.network import Said, flat
from models.signals import COUNT

DRIVERS: Final = 5


def effects(
    model: Calibrated, said: Said, log_odds: Tensor, signals: Tensor, minutes: Tensor, case: Tensor
) -> tuple[Tensor, Tensor]:
    """Strongest signals [B, K], -1 where fewer, and their effects in log-odds, float64[B, K]."""
    calibration = model.calibration
    without = calibration.log_odds(
        model.network.without(said, signals, minutes),
        trees_without(model, signals, minutes, case),
        case.unsqueeze(1),
    )
    leading = (log_odds - calibration.limit).argmax(1)
    pick = leading.reshape(-1, 1, 1).expand(-1, without.shape[1], 1)
    effect = log_odds.gather(1, leading.unsqueeze(1)) - without.gather(2, pick)[:, :, 0]
    known = signals[:, :, 1] < 0.5
    strength = torch.where(known, effect.abs(), -1.0)
    order = strength.argsort(dim=1, descending=True, stable=True)[:, :DRIVERS]
    there = known.gather(1, order)
    return torch.where(there, order, -1), torch.where(there, effect.gather(1, order), 0.0)


def trees_without(model: Calibrated, signals: Tensor, minutes: Tensor, case: Tensor) -> Tensor:
    """Log-odds of the trees [B, S, R] had each signal never been measured, the likeness to a
    hospital as it is.
    """
    each = []
    _, like = model.trees.heard(flat(signals, minutes, case))
    for signal in range(COUNT):
        gone, less = signals.clone(), minutes.clone()
        gone[:, signal] = model.network.absent_D
        if signal in VITAL_AT:
            less[:, VITAL_AT.index(signal)] = 0.0
        each.append(model.trees(flat(gone, less, case), like))
    return torch.stack(each, 1)


def strongest(
    calibration: Calibration, log_odds: Tensor, without: Tensor, row: Tensor, signal: Tensor
) -> tuple[Tensor, Tensor]:
    """`effects` from the calibrated log-odds [P, R] of the variants that lack a known signal.

    Args:
        calibration: Of the risks.
        log_odds: Of the rows as they are, [B, R].
        without: Of row `row`[P] without its signal `signal`[P].
        row: Of each variant, int64[P].
        signal: What it lacks, int64[P].
    """
    leading = (log_odds - calibration.limit).argmax(1)
    pick = leading[row].unsqueeze(1)
    effect = log_odds.gather(1, leading.unsqueeze(1))[row, 0] - without.gather(1, pick)[:, 0]
    all_effects = log_odds.new_zeros(len(log_odds), COUNT)
    all_effects[row, signal] = effect
    strength = torch.full_like(all_effects, -1.0)
    strength[row, signal] = effect.abs()
    order = strength.argsort(dim=1, descending=True, stable=True)[:, :DRIVERS]
    there = strength.gather(1, order) >= 0
    return torch.where(there, order, -1), torch.where(there, all_effects.gather(1, order), 0.0)
