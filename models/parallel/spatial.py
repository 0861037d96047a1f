"""3D convolution on a volume that is split over ranks along one or more spatial dimensions.

Each output position belongs to the rank whose slab holds the centre of its receptive field, so that
a convolution with
`same` padding keeps every slab's size and a strided one shrinks all slabs alike. A rank fetches the
halo that its
outputs need, from as many neighbours as it spans, and computes its interior meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from models.parallel.slabs import Exchange, Layout, Range, intersect

Group = dist.ProcessGroup | None


@dataclass(frozen=True, slots=True)
class _Axis:
    """Geometry of the convolution along one split dimension."""

    dim: int
    layout: Layout
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def out_total(self) -> int:
        span = self.dilation * (self.kernel - 1) + 1
        return (self.layout.total + 2 * self.padding - span) // self.stride + 1

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


class _Halo:
    """One dimension's halo: what this rank sends, receives, and how gradients go the way back."""

    def __init__(self, axis: _Axis) -> None:
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """A split convolution: its axes and what `aten::convolution` needs for the dimensions that are
    whole.
    """

    axes: tuple[_Axis, ...]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    groups: int

    def edges(self) -> list[int]:
        """Zeros that lie outside the volume and that this rank's outputs read, in the order of
        `F.pad`.
        """
        pad = [0] * 6
        for axis in self.axes:
            start, end = axis.field(axis.outputs(axis.layout.rank))
            if end > start:
                at = 2 * (4 - axis.dim)
                pad[at], pad[at + 1] = axis.zeros((start, end))
        return pad

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv3d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def _interior(axis: _Axis) -> Range:
    """Outputs of this rank along an axis that read its own slab and the volume's edge only."""
    rank = axis.layout.rank
    mine, (start, end) = axis.layout.owned(rank), axis.outputs(rank)
    low = mine[0] if mine[0] > 0 else -axis.padding
    high = mine[1] if mine[1] < axis.layout.total else axis.layout.total + axis.padding
    while start < end and axis.field((start, start + 1))[0] < low:
        start += 1
    while start < end and axis.field((end - 1, end))[1] > high:
        end -= 1
    return start, end


class _SplitConv3d(torch.autograd.Function):
    """Forward: fetch halos, convolve the interior meanwhile, then the rims; and back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan, overlap: bool
    ) -> Tensor:
        halos = [_Halo(axis) for axis in plan.axes]
        whole = x
        for halo in halos[:-1]:  # corners travel with the next dimension's halo
            exchange, pieces = halo.fetch(whole)
            exchange.wait()
            whole = halo.join(whole, pieces)
        last, halo = plan.axes[-1], halos[-1]
        exchange, pieces = halo.fetch(whole)
        outputs = last.outputs(last.layout.rank)
        inner = _interior(last) if overlap else (outputs[0], outputs[0])
        middle = _convolve_part(
            whole, weight, bias, plan, inner, last.layout.owned(last.layout.rank)
        )
        exchange.wait()
        whole = halo.join(whole, pieces)
        rims = (
            [(outputs[0], inner[0]), (inner[1], outputs[1])] if inner[1] > inner[0] else [outputs]
        )
        parts = [_convolve_part(whole, weight, bias, plan, rim, halo.need) for rim in rims]
        if inner[1] > inner[0]:
            parts.insert(1, middle)
        kept = [part for part in parts if part.shape[last.dim] > 0] or parts[:1]
        ctx.save_for_backward(whole, weight)
        ctx.plan, ctx.halos, ctx.has_bias = plan, halos, bias is not None
        return kept[0] if len(kept) == 1 else torch.cat(kept, last.dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        whole, weight = ctx.saved_tensors
        plan: _Plan = ctx.plan
        needs_x, needs_w, needs_b = ctx.needs_input_grad[:3]
        pad = plan.edges()
        padded = F.pad(whole, pad) if any(pad) else whole

        def part(mask: list[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            if grad.numel() == 0:
                bias = weight.new_zeros(weight.shape[0]) if mask[2] else None
                return torch.zeros_like(padded), torch.zeros_like(weight), bias
            return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
                grad.contiguous(),
                padded,
                weight,
                [weight.shape[0]] if ctx.has_bias else None,
                list(plan.stride),
                list(plan.padding),
                list(plan.dilation),
                False,
                [0, 0, 0],
                plan.groups,
                mask,
            )

        # Every rank takes part in the exchange, also one whose own slab needs no gradient.
        dx, _, _ = part([True, False, False])
        assert dx is not None
        for axis in plan.axes:
            at = 2 * (4 - axis.dim)
            dx = dx.narrow(axis.dim, pad[at], dx.shape[axis.dim] - pad[at] - pad[at + 1])
        last = ctx.halos[-1]
        exchange, pieces = last.give_back(dx)
        dw = db = None
        if needs_w or needs_b:  # computed while the halo's gradients travel
            _, dw, db = part([False, needs_w, needs_b and ctx.has_bias])
        exchange.wait()
        dx = last.collect(dx, pieces)
        for halo in reversed(ctx.halos[:-1]):
            exchange, pieces = halo.give_back(dx)
            exchange.wait()
            dx = halo.collect(dx, pieces)
        return dx if needs_x else None, dw if needs_w else None, db if needs_b else None, None, None


def _convolve_part(
    x: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan, outputs: Range, held: Range
) -> Tensor:
    """Convolve a range of outputs along the last axis from inputs `held` (global) along it."""
    last = plan.axes[-1]
    pad = plan.edges()
    start, end = last.field(outputs)
    at = 2 * (4 - last.dim)
    counts = [axis.outputs(axis.layout.rank) for axis in plan.axes[:-1]]
    if end <= start or any(b <= a for a, b in counts):
        shape = [x.shape[0], weight.shape[0], *_whole_sizes(x, weight, plan)]
        for axis, (low, high) in zip(plan.axes[:-1], counts, strict=True):
            shape[axis.dim] = high - low
        shape[last.dim] = max(0, outputs[1] - outputs[0])
        return x.new_empty(shape)
    pad[at], pad[at + 1] = last.zeros((start, end))
    low, high = intersect((start, end), (0, last.layout.total))
    # A field may lie in the padding alone: then it holds nothing of the volume.
    piece = (
        x.narrow(last.dim, low - held[0], high - low) if high > low else x.narrow(last.dim, 0, 0)
    )
    return plan.convolve(F.pad(piece, pad) if any(pad) else piece, weight, bias)


def _whole_sizes(x: Tensor, weight: Tensor, plan: _Plan) -> list[int]:
    return [
        max(
            0,
            (
                x.shape[d + 2]
                + 2 * plan.padding[d]
                - plan.dilation[d] * (weight.shape[d + 2] - 1)
                - 1
            )
            // plan.stride[d]
            + 1,
        )
        for d in range(3)
    ]


def _triple(value: int | Sequence[int], name: str, least: int) -> tuple[int, int, int]:
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(values) != 3 or any(v < least for v in values):
        raise ValueError(f"{name} must be an integer or three of at least {least}, not {value!r}")
    return values


def split_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    dim: int | Sequence[int],
    group: Group | Sequence[Group] = None,
    overlap: bool = True,
) -> Tensor:
    """Convolve a volume split over ranks; a collective over `group`.

    Args:
        x: This rank's slab, [N, C, D, H, W]; slabs may differ in size along `dim`, and be empty.
        weight: [O, C / groups, kD, kH, kW], the same on every rank.
        bias: [O] or None.
        stride: As in `torch.nn.functional.conv3d`.
        padding: As there, in zeros on both sides of the whole volume.
        dilation: As there.
        groups: As there.
        dim: The split dimension, 2, 3 or 4; or two of them for a volume split over a mesh.
        group: Its ranks in the order of the slabs; one for each dimension where `dim` names
            several.
        overlap: Whether the interior is computed while the halo travels: three smaller
            convolutions for one.

    Returns:
        This rank's slab of what `conv3d` gives for the whole. Concatenated in rank order, the slabs
        are exactly that.
        Gradients: of `x` for this rank's slab; of `weight` and `bias` this rank's share, whose sum
            over the ranks is
        the whole.

    Raises:
        ValueError: A dimension that is not spatial, or a kernel wider than the padded volume.
    """
    dims = [dim] if isinstance(dim, int) else list(dim)
    groups_of: list[Group] = list(group) if isinstance(group, Sequence) else [group]
    if len(dims) != len(groups_of) or len(set(dims)) != len(dims) or not set(dims) <= {2, 3, 4}:
        raise ValueError(f"dim must name 2, 3 or 4 with one group each, not {dim!r}")
    strides, paddings = _triple(stride, "stride", 1), _triple(padding, "padding", 0)
    dilations = _triple(dilation, "dilation", 1)
    axes = []
    for d, ranks in zip(dims, groups_of, strict=True):
        axis = _Axis(
            dim=d,
            layout=Layout.of(x.shape[d], ranks, x.device),
            kernel=weight.shape[d],
            stride=strides[d - 2],
            padding=paddings[d - 2],
            dilation=dilations[d - 2],
        )
        if axis.out_total < 1:
            raise ValueError(f"the kernel spans more than the padded volume along dimension {d}")
        axes.append(axis)
    kept = tuple(0 if d + 2 in dims else paddings[d] for d in range(3))
    plan = _Plan(tuple(axes), strides, kept, dilations, groups)  # type: ignore[arg-type]
    return _SplitConv3d.apply(x, weight, bias, plan, overlap)  # type: ignore[no-any-return]
