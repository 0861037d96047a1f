"""How unlike the training data a window is, from 0 to 1: the larger of two scores.

Strangeness of the values: the mean square of the newest values and 8-hour memories, in standard
deviations, over the signals that are there. It tells what is out of range, and alone routes to the
rare-disease expert: a whole hospital with habits of its own is no rare disease.

Distance of the pattern: Mahalanobis', of the same numbers and of which signals are missing, under
their covariance in the training data. It tells what does not go together, each part of it usual:
another hospital's habits, signals of two patients.

Quantiles of the training split give each its scale: up to the median is 0, the 90th percentile 0.2,
the 99th 0.5, the 99.9th 0.8, three times that 1.

Axes: B rows, S signals, D features of a signal, K = 3 S numbers of the pattern.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from models.moe import interpolate
from models.signals import COUNT

QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)
LEVELS: Final = (0.0, 0.2, 0.5, 0.8, 1.0)
K: Final = 3 * COUNT
_SHRINK: Final = 0.1
"""Of the correlations towards none."""
_LOST: Final = 0.1
"""Of the signals of every second row, made never measured before the covariance is taken: one that
lacks is no other kind of patient.
"""
_SOFT: Final = 0.05
"""Added to a number's standard deviation: what hardly ever changes must not decide."""


def distance(signals: Tensor) -> Tensor:
    """Mean square of what is there, float32[B], from features of signals [B, S, D]."""
    known = 1.0 - signals[:, :, 1]
    square = (signals[:, :, 0] * signals[:, :, 0] + signals[:, :, 4] * signals[:, :, 4]) * known
    count = known.sum(1)
    return torch.where(count > 0, square.sum(1) / (count + 1.0), 0.0)


def numbers(signals: Tensor) -> Tensor:
    """Newest values, 8-hour memories and what is missing, float32[B, K]."""
    return torch.cat([signals[:, :, 0], signals[:, :, 4], signals[:, :, 1]], 1)


class Novelty(nn.Module):
    """Features of signals to novelty.

    Attributes:
        knots: Where the levels of the values' distance lie, [5]; pattern_knots of the pattern's.
        centre: Of the numbers, [K].
        whiten: Makes of a row's numbers what has a mean square of about 1, [K, K].
    """

    knots: Tensor
    levels: Tensor
    centre: Tensor
    whiten: Tensor
    pattern_knots: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.tensor([2.0, 4.0, 7.0, 12.0, 36.0]))
        self.register_buffer("levels", torch.tensor(LEVELS), persistent=False)
        self.register_buffer("centre", torch.zeros(K))
        self.register_buffer("whiten", torch.zeros(K, K))
        self.register_buffer("pattern_knots", torch.tensor([1.0, 2.0, 3.0, 4.0, 12.0]))

    def fit(self, signals: Tensor) -> None:
        """Set scales and covariance from features of the training split, [B, S, D]."""
        x = numbers(signals).double()
        lost = torch.rand(len(x), COUNT, generator=torch.Generator().manual_seed(0)) < _LOST
        lost[::2] = False
        thinned = x.masked_fill(lost.repeat(1, 3), 0.0)
        thinned[:, -COUNT:].masked_fill_(lost, 1.0)
        spread = thinned.std(0, correction=0) + _SOFT
        centre = thinned.mean(0)
        z = (thinned - centre) / spread
        own = torch.eye(K, dtype=torch.float64)
        covariance = (1.0 - _SHRINK) * (z.T @ z) / len(z) + _SHRINK * own
        half = torch.linalg.cholesky(torch.linalg.inv(covariance))
        self.centre.copy_(centre)
        self.whiten.copy_(half / spread.unsqueeze(1) / K**0.5)
        self.knots.copy_(_knots(distance(signals)))
        self.pattern_knots.copy_(_knots(self.pattern(signals)))

    def pattern(self, signals: Tensor) -> Tensor:
        """Mean square of the whitened numbers, float32[B]; 0 before `fit`."""
        return (torch.mm(numbers(signals) - self.centre, self.whiten) ** 2).sum(1)

    def forward(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        """Novelty, and that of the values alone, float32[B] each."""
        strange = interpolate(distance(signals), self.knots, self.levels)
        pattern = interpolate(self.pattern(signals), self.pattern_knots, self.levels)
        return torch.maximum(strange, pattern), strange


def _knots(distances: Tensor) -> Tensor:
    ordered = distances.sort().values
    at = [ordered[int(q * (len(ordered) - 1))].item() for q in QUANTILES]
    return torch.tensor([*at, 3.0 * at[-1]])
