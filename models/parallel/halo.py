"""What one split dimension of a convolution makes ranks owe each other: outputs, fields, halos.

An output belongs to the rank whose slab holds the centre of its receptive field.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from models.parallel.slabs import Exchange, Layout, Range, intersect


@dataclass(frozen=True, slots=True)
class Axis:
    """Geometry of the convolution along one split dimension; `padding` lies ahead of the volume and
    `after` behind it.
    """

    dim: int
    layout: Layout
    kernel: int
    stride: int
    padding: int
    after: int
    dilation: int

    @property
    def out_total(self) -> int:
        span = self.dilation * (self.kernel - 1) + 1
        return (self.layout.total + self.padding + self.after - span) // self.stride + 1

    def outputs(self, rank: int) -> Range:
        """Outputs of a rank: those whose receptive field is centred in its slab; the ends go to the
        outer ranks.
        """
        last = len(self.layout.bounds) - 2
        half = self.dilation * (self.kernel - 1) // 2
        cuts = [
            bisect_left(
                range(self.out_total), bound, key=lambda o: o * self.stride - self.padding + half
            )
            for bound in self.layout.bounds
        ]
        start = 0 if rank == 0 else cuts[rank]
        end = self.out_total if rank == last else cuts[rank + 1]
        return start, max(start, end)

    def field(self, outputs: Range) -> Range:
        """Inputs that a range of outputs reads, padding included (may lie outside the volume)."""
        if outputs[1] <= outputs[0]:
            return 0, 0
        first = outputs[0] * self.stride - self.padding
        final = (outputs[1] - 1) * self.stride - self.padding
        return first, final + self.dilation * (self.kernel - 1) + 1

    def zeros(self, field: Range) -> Range:
        """How many zeros a field reads before the volume's start and after its end."""
        start, end = field
        return max(0, min(end, 0) - start), max(0, end - max(start, self.layout.total))

    def inputs(self, rank: int) -> Range:
        """Inputs within the volume that a rank's outputs read."""
        return intersect(self.field(self.outputs(rank)), (0, self.layout.total))


class Halo:
    """One dimension's halo: what this rank sends, receives, and how gradients go the way back."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        layout = axis.layout
        mine, need = layout.owned(layout.rank), axis.inputs(layout.rank)
        others = [r for r in range(len(layout.bounds) - 1) if r != layout.rank]
        self._origin = mine[0]
        self.need = need
        self.local = intersect(mine, need)
        self.to = [(r, p) for r in others if (p := intersect(mine, axis.inputs(r)))[1] > p[0]]
        self.of = [(r, p) for r in others if (p := intersect(layout.owned(r), need))[1] > p[0]]

    def fetch(self, x: Tensor) -> tuple[Exchange, list[tuple[Range, Tensor]]]:
        """Start sending and receiving the halo pieces of slab `x`."""
        exchange = Exchange(self._axis.layout.group)
        dim = self._axis.dim
        for rank, (start, end) in self.to:
            exchange.send(x.narrow(dim, start - self._origin, end - start), rank)
        pieces = []
        for rank, piece in self.of:
            shape = list(x.shape)
            shape[dim] = piece[1] - piece[0]
            pieces.append((piece, exchange.receive(x.new_empty(shape), rank)))
        exchange.start()
        return exchange, pieces

    def join(self, x: Tensor, pieces: list[tuple[Range, Tensor]]) -> Tensor:
        """The slab with its halo: exactly the range this rank's outputs read."""
        dim = self._axis.dim
        parts = list(pieces)
        if self.local[1] > self.local[0]:
            start, end = self.local
            parts.append((self.local, x.narrow(dim, start - self._origin, end - start)))
        parts.sort(key=lambda part: part[0][0])
        if not parts:
            return x.narrow(dim, 0, 0)
        return torch.cat([tensor for _, tensor in parts], dim)

    def give_back(self, grad: Tensor) -> tuple[Exchange, list[tuple[Range, Tensor]]]:
        """Start returning the gradients of halo pieces to their owners, and receiving those of
        ours.
        """
        exchange = Exchange(self._axis.layout.group)
        dim = self._axis.dim
        for rank, (start, end) in self.of:
            exchange.send(grad.narrow(dim, start - self.need[0], end - start), rank)
        pieces = []
        for rank, piece in self.to:
            shape = list(grad.shape)
            shape[dim] = piece[1] - piece[0]
            pieces.append((piece, exchange.receive(grad.new_empty(shape), rank)))
        exchange.start()
        return exchange, pieces

    def collect(self, grad: Tensor, pieces: list[tuple[Range, Tensor]]) -> Tensor:
        """The slab's gradient: what this rank's outputs say of it and what the neighbours' do."""
        dim = self._axis.dim
        low, high = self._axis.layout.owned(self._axis.layout.rank)
        shape = list(grad.shape)
        shape[dim] = high - low
        total = grad.new_zeros(shape)
        if self.local[1] > self.local[0]:
            start, end = self.local
            own = grad.narrow(dim, start - self.need[0], end - start)
            total.narrow(dim, start - low, end - start).copy_(own)
        for (start, end), piece in pieces:
            total.narrow(dim, start - low, end - start).add_(piece)
        return total


def interior(axis: Axis) -> Range:
    """Outputs of this rank along an axis that read its own slab and the volume's edge only."""
    rank = axis.layout.rank
    mine, (start, end) = axis.layout.owned(rank), axis.outputs(rank)
    low = mine[0] if mine[0] > 0 else -axis.padding
    high = mine[1] if mine[1] < axis.layout.total else axis.layout.total + axis.after
    while start < end and axis.field((start, start + 1))[0] < low:
        start += 1
    while start < end and axis.field((end - 1, end))[1] > high:
        end -= 1
    return start, end
