"""How unlike the training data a window is, from 0 to 1.

The distance is the mean square of the newest values and 8-hour memories, in standard deviations,
over the signals that are there. Quantiles of the training split give it its scale: up to the median
is 0, the 90th percentile 0.2, the 99th 0.5, the 99.9th 0.8, three times that 1.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.moe import interpolate

QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)
LEVELS: Final = (0.0, 0.2, 0.5, 0.8, 1.0)


def distance(signals: Tensor) -> Tensor:
    """Mean square of what is there, float32[B], from features of signals [B, S, D]."""
    known = 1.0 - signals[:, :, 1]
    square = (signals[:, :, 0] * signals[:, :, 0] + signals[:, :, 4] * signals[:, :, 4]) * known
    count = known.sum(1)
    return torch.where(count > 0, square.sum(1) / (count + 1.0), 0.0)


class Novelty(nn.Module):
    """Distance to novelty."""

    knots: Tensor
    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.tensor([2.0, 4.0, 7.0, 12.0, 36.0]))
        self.register_buffer("levels", torch.tensor(LEVELS), persistent=False)

    def fit(self, distances: Tensor) -> None:
        """Set the scale from the distances of the training split."""
        ordered = distances.sort().values
        at = [ordered[int(q * (len(ordered) - 1))].item() for q in QUANTILES]
        self.knots.copy_(torch.tensor([*at, 3.0 * at[-1]]))

    def forward(self, signals: Tensor) -> Tensor:
        """Novelty, float32[B]."""
        return self.of(distance(signals))

    def of(self, distances: Tensor) -> Tensor:
        """Novelty of distances, float32[B]."""
        return interpolate(distances, self.knots, self.levels)
