"""The network without a mixture: as many parameters in one expert, what an ablation compares with.

Axes: B windows, H first hidden units.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import silu

from models.features import D, E, F, V
from models.moe import EXPERTS
from models.network import RISKS, Network, NetworkConfig, Said, flat
from models.signals import COUNT

_INNER: Final = 112
_FAN: Final = COUNT * D + V * E + F


def _count(outer: int) -> int:
    """Parameters that a dense network with so many first hidden units uses."""
    return (_FAN + 1) * outer + (outer + 1) * _INNER + (_INNER + 1) * len(RISKS)


def like(network: Network) -> Dense:
    """A dense network of as many parameters as a mixture with its gate, to within a unit's."""
    wanted = sum(x.numel() for x in network.parameters())
    outer = (wanted - _count(0)) // (_count(1) - _count(0))
    return Dense(NetworkConfig(general=(outer, _INNER), special=(1, 1), gate=1))


class Dense(Network):
    """All hidden units in the general expert; the others and the gate are there and do nothing."""

    @property
    def used(self) -> int:
        """Parameters that what it says depends on."""
        return _count(self.config.general[0])

    def forward(self, signals: Tensor, minutes: Tensor, case: Tensor) -> Said:
        """Logits of features [B, S, D], [B, V, E] and [B, F]; the general expert's share is 1."""
        outer, experts = self.config.general[0], self.experts
        x = flat(signals, minutes, case)
        hidden = torch.addmm(self.bias[:outer], x, self._first()[:, :outer])
        logits = experts.head(silu(experts.body(silu(hidden))))
        share = x.new_zeros(len(x), len(EXPERTS))
        share[:, 0] = 1.0
        nothing = x.new_zeros(len(x))
        return Said(logits, torch.zeros_like(share), share, nothing, nothing, hidden)
