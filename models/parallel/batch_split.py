"""A batch split over ranks: each computes its rows, all hear what the others say of theirs.

Every rank is given the whole batch and draws the same random numbers for it, so the loss of the
batch is computed by the code that trains in one process, and its gradient is summed over the ranks.

Axes: B rows of a batch, S signals, V vitals, D, E, F features.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.moe import EXPERTS
from models.network import RISKS, Network, Said
from models.parallel.volumes import even_sizes

_HEARD: Final = ("logits", "gate", "share", "novelty", "strange")
"""Of what a network says, what a loss needs."""


class _Gather(torch.autograd.Function):
    """Rows of all ranks, in their order; the gradient of a rank's own rows comes back."""

    @staticmethod
    def forward(
        ctx: Any, part: Tensor, sizes: list[int], group: dist.ProcessGroup, scale: float
    ) -> Tensor:
        rank = dist.get_rank(group)
        ctx.start, ctx.size, ctx.scale = sum(sizes[:rank]), sizes[rank], scale
        # Gloo gathers equal sizes only; even ones differ by a row.
        padded = part.new_zeros(max(sizes), part.shape[1])
        padded[: len(part)] = part
        every = part.new_empty(len(sizes) * max(sizes), part.shape[1])
        dist.all_gather_into_tensor(every, padded, group=group)
        parts = torch.split(every, max(sizes))
        return torch.cat([one[:size] for one, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad[ctx.start : ctx.start + ctx.size] * ctx.scale, None, None, None


class BatchSplit(nn.Module):
    """A network that is given a whole batch on every rank and computes this rank's rows of it.

    Args:
        network: From features to `Said`.
        group: The ranks; None for this process alone.
        averaged: Whether what trains it averages gradients over the ranks, as DDP does, instead of
            adding them.
    """

    absent_D: Tensor

    def __init__(
        self, network: nn.Module, group: dist.ProcessGroup | None, *, averaged: bool = False
    ) -> None:
        super().__init__()
        self.network, self.group = network, group
        inner = network.module if isinstance(network, DistributedDataParallel) else network
        # Batches are prepared where the rows lie, on the CPU.
        absent = cast("Network", inner).absent_D
        self.register_buffer("absent_D", absent.cpu(), persistent=False)
        self._place = absent.device
        self._averaged = averaged

    def forward(self, signals: Tensor, minutes: Tensor, case: Tensor) -> Said:
        """What all ranks together say of features [B, S, D], [B, V, E] and [B, F]; a collective.

        The answer's `hidden` are those of this rank's rows alone.
        """
        if self.group is None:
            alone: Said = self.network(*(x.to(self._place) for x in (signals, minutes, case)))
            return replace(alone, **{name: getattr(alone, name).cpu() for name in _HEARD})
        world, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        sizes = even_sizes(len(signals), world)
        # A rank without rows runs one, which counts nowhere, so that it takes part in everything.
        start = min(sum(sizes[:rank]), len(signals) - 1)
        mine = slice(start, start + max(1, sizes[rank]))
        said: Said = self.network(*(x[mine].to(self._place) for x in (signals, minutes, case)))
        scores = torch.stack([said.novelty, said.strange], 1)
        part = torch.cat([said.logits, said.gate, said.share, scores], 1)
        scale = float(world) if self._averaged else 1.0
        every = _Gather.apply(part[: sizes[rank]], sizes, self.group, scale)
        logits, gate, share, scores = torch.split(
            every.cpu(), [len(RISKS), len(EXPERTS), len(EXPERTS), 2], 1
        )
        # A gate that is kept as it is has no gradient, and no loss of its own.
        gate = gate if said.gate.requires_grad else gate.detach()
        return Said(logits, gate, share, scores[:, 0], scores[:, 1], said.hidden)
