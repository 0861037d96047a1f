"""The mixture: a gate that routes a case once, a general expert that is always on, three others.

All experts read the same exponential memories of the window, each through weights of its own: what
an expert makes of a signal's history is a learned mixture of exponentials, its temporal encoder.

`Mixture` is the sparse form, whose experts may lie on several ranks (`models.mixture`,
`models.parallel.experts`).

Axes: B windows, H hidden units of all experts, N experts, R risks.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from models.mixture import Bank, Dispatch, Mixture

__all__ = [
    "ALWAYS",
    "EXPERTS",
    "STEEP",
    "Bank",
    "Dispatch",
    "Experts",
    "Gate",
    "Mixture",
    "interpolate",
    "mixed",
    "shares",
]

EXPERTS: Final = ("general", "oncology", "cardiology", "rare_disease")
ALWAYS: Final = 0.25
"""Least share of the general expert."""
STEEP: Final = 6.0
"""What values of novelty 1 add to the rare-disease expert's logit."""


def interpolate(x: Tensor, knots: Tensor, levels: Tensor) -> Tensor:
    """Piecewise linear through (knots, levels), constant outside; element-wise."""
    at = torch.bucketize(x, knots).clamp(1, len(knots) - 1)
    left, right = knots[at - 1], knots[at]
    part = ((x - left) / (right - left)).clamp(0.0, 1.0)
    return levels[at - 1] + (levels[at] - levels[at - 1]) * part


class Gate(nn.Module):
    """Logits of the experts from what moves slowly, and from strange values for the rare-disease
    route.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, len(EXPERTS))

    def forward(self, slow: Tensor, strange: Tensor) -> Tensor:
        """Logits, [B, N]."""
        logits: Tensor = self.second(silu(self.first(slow)))
        return torch.cat([logits[:, :3], logits[:, 3:] + STEEP * strange.unsqueeze(1)], 1)


def shares(logits: Tensor) -> Tensor:
    """Shares [B, N] that sum to 1, the general expert's at least `ALWAYS`."""
    share = torch.softmax(logits, 1) * (1.0 - ALWAYS)
    return torch.cat([share[:, :1] + ALWAYS, share[:, 1:]], 1)


def mixed(logits: Tensor, share: Tensor) -> Tensor:
    """Logits [rows, N * R] of experts by their shares [rows, N], added in one order: [rows, R]."""
    risks = logits.shape[1] // len(EXPERTS)
    each = logits.reshape(-1, len(EXPERTS), risks) * share.unsqueeze(2)
    total: Tensor = each[:, 0] + each[:, 1] + each[:, 2] + each[:, 3]
    return total


class Experts(nn.Module):
    """From the experts' first hidden units, side by side, to each expert's logits."""

    def __init__(self, general: tuple[int, int], special: tuple[int, int], risks: int) -> None:
        super().__init__()
        self.general, self.special = general, special
        self.body = nn.Linear(*general)
        self.head = nn.Linear(general[1], risks)
        count = len(EXPERTS) - 1
        self.bodies = nn.Parameter(torch.randn(count, *special) / special[0] ** 0.5)
        self.body_bias = nn.Parameter(torch.zeros(count, 1, special[1]))
        self.heads = nn.Parameter(0.1 * torch.randn(count, special[1], risks) / special[1] ** 0.5)

    @property
    def width(self) -> int:
        """H, hidden units of all experts."""
        return self.general[0] + (len(EXPERTS) - 1) * self.special[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [rows, N, R] of hidden units [rows, H] before their nonlinearity."""
        active = silu(hidden)
        common = self.head(silu(self.body(active[:, : self.general[0]])))
        rest = active[:, self.general[0] :].reshape(len(hidden), -1, self.special[0])
        inner = silu(torch.bmm(rest.transpose(0, 1), self.bodies) + self.body_bias)
        own = torch.bmm(inner, self.heads).transpose(0, 1)
        # The others say what the general expert misses.
        return torch.cat([common.unsqueeze(1), common.unsqueeze(1) + own], 1)
