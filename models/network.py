"""The network: features of one window to the logits of four risks, through the mixture.

Axes: B windows, S signals, D features of a signal, V vitals, E of their minutes, F of the case,
H hidden units, N experts, R risks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from models.features import ABSENT, SLOW, VITAL_AT, D, E, F, Features, V
from models.moe import Experts, Gate, shares
from models.novelty import Novelty
from models.signals import COUNT

RISKS: Final = ("sepsis", "mortality", "hypotension", "hypoxaemia")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Widths of the network: the experts' two hidden layers and the gate's one."""

    general: tuple[int, int] = (192, 64)
    special: tuple[int, int] = (48, 32)
    gate: int = 32

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @classmethod
    def of_json(cls, said: dict[str, Any]) -> NetworkConfig:
        """From `as_json`."""
        general, special = said["general"], said["special"]
        return cls(
            general=(int(general[0]), int(general[1])),
            special=(int(special[0]), int(special[1])),
            gate=int(said["gate"]),
        )


@dataclass(frozen=True, slots=True)
class Said:
    """What the network says of a batch.

    Attributes:
        logits: Of the risks, not calibrated, [B, R].
        gate: Logits of the experts, [B, N]; `share` what follows from them.
        novelty: [B]; strange that of the values alone, which routes.
        hidden: First hidden units before their nonlinearity, [B, H].
    """

    logits: Tensor
    gate: Tensor
    share: Tensor
    novelty: Tensor
    strange: Tensor
    hidden: Tensor


def flat(signals: Tensor, minutes: Tensor, case: Tensor) -> Tensor:
    """All features of rows side by side, float32[B, S * D + V * E + F]."""
    size = len(signals)
    return torch.cat([signals.reshape(size, -1), minutes.reshape(size, -1), case], 1)


class Network(nn.Module):
    """Features, novelty, gate and experts."""

    absent_D: Tensor

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        self.features = Features()
        self.novelty = Novelty()
        self.experts = Experts(self.config.general, self.config.special, len(RISKS))
        self.gate = Gate(COUNT * len(SLOW) + F, self.config.gate)
        width = self.experts.width
        fan = COUNT * D + V * E + F
        self.of_signals = nn.Parameter(torch.randn(COUNT, D, width) / fan**0.5)
        self.of_minutes = nn.Parameter(torch.randn(V, E, width) / fan**0.5)
        self.of_case = nn.Parameter(torch.randn(F, width) / fan**0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("absent_D", torch.tensor(ABSENT), persistent=False)
        self._made: Tensor | None = None

    def forward(self, signals: Tensor, minutes: Tensor, case: Tensor) -> Said:
        """Logits of features [B, S, D], [B, V, E] and [B, F]."""
        size = len(signals)
        hidden = torch.addmm(self.bias, flat(signals, minutes, case), self._first())
        novelty, strange = self.novelty(signals)
        slow = torch.cat([signals[:, :, list(SLOW)].reshape(size, -1), case], 1)
        gate = self.gate(slow, strange)
        share = shares(gate)
        logits = (self.experts(hidden) * share.unsqueeze(2)).sum(1)
        return Said(logits, gate, share, novelty, strange, hidden)

    def without(self, said: Said, signals: Tensor, minutes: Tensor) -> Tensor:
        """Logits [B, S, R] had each signal never been measured, the shares as they are.

        Exact, and cheap: the first layer is linear, so a signal is taken out of its sums.
        """
        size = len(signals)
        moved = torch.bmm((signals - self.absent_D).transpose(0, 1), self.of_signals)
        moved[list(VITAL_AT)] += torch.bmm(minutes.transpose(0, 1), self.of_minutes)
        hidden = (said.hidden.unsqueeze(0) - moved).reshape(COUNT * size, -1)
        each = self.experts(hidden).reshape(COUNT, size, -1, len(RISKS))
        without: Tensor = (each * said.share.unsqueeze(2)).sum(2).transpose(0, 1)
        return without

    def _first(self) -> Tensor:
        """The first layer as one matrix, kept while serving."""
        if self._made is not None:
            return self._made
        width = self.experts.width
        made = torch.cat(
            [self.of_signals.reshape(-1, width), self.of_minutes.reshape(-1, width), self.of_case]
        )
        if not self.training and not torch.is_grad_enabled():
            self._made = made
        return made

    def train(self, mode: bool = True) -> Network:
        """Switch between training and serving."""
        self._made = None
        super().train(mode)
        return self
