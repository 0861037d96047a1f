"""3D convolution on a volume that is split over ranks along one or more spatial dimensions.

Each output position belongs to the rank whose slab holds the centre of its receptive field, so that
a convolution with
`same` padding keeps every slab's size and a strided one shrinks all slabs alike. A rank fetches the
halo that its
outputs need, from as many neighbours as it spans, and computes its interior meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from models import ops
from models.parallel.halo import Axis, Halo, interior
from models.parallel.slabs import Layout, Range, intersect

Group = dist.ProcessGroup | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A split convolution: its axes and what `aten::convolution` needs for the dimensions that are
    whole.
    """

    axes: tuple[Axis, ...]
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

    def by_kernel(self, weight: Tensor) -> bool:
        """Whether a kernel reads the pieces where they lie: one split dimension, half precision,
        and a library for the device.
        """
        half = weight.dtype == torch.float16
        return half and len(self.axes) == 1 and ops.runs_on(weight.device)

    def convolve_in_place(
        self,
        slab: Tensor,
        pieces: list[tuple[Range, Tensor]],
        weight: Tensor,
        bias: Tensor | None,
        outputs: Range,
    ) -> Tensor:
        """A range of outputs from the slab and the halo's pieces, which are not concatenated."""
        (axis,) = self.axes
        padding = list(self.padding)
        padding[axis.dim - 2] = axis.padding
        parts = [(axis.layout.owned(axis.layout.rank)[0], slab)]
        parts += [(start, tensor) for (start, _), tensor in pieces]
        done: Tensor = ops.conv3d_split(
            [tensor for _, tensor in parts],
            [start for start, _ in parts],
            weight,
            None if bias is None else bias.float(),
            self.stride,
            padding,
            self.dilation,
            self.groups,
            axis.dim,
            axis.layout.total,
            outputs[0],
            outputs[1] - outputs[0],
        )
        return done

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv3d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class _SplitConv3d(torch.autograd.Function):
    """Forward: fetch halos, convolve the interior meanwhile, then the rims; and back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan, overlap: bool
    ) -> Tensor:
        halos = [Halo(axis) for axis in plan.axes]
        whole = x
        for halo in halos[:-1]:  # corners travel with the next dimension's halo
            exchange, pieces = halo.fetch(whole)
            exchange.wait()
            whole = halo.join(whole, pieces)
        last, halo = plan.axes[-1], halos[-1]
        exchange, pieces = halo.fetch(whole)
        outputs = last.outputs(last.layout.rank)
        inner = interior(last) if overlap else (outputs[0], outputs[0])
        owned = last.layout.owned(last.layout.rank)
        in_place = plan.by_kernel(weight)
        middle = (
            plan.convolve_in_place(whole, [], weight, bias, inner)
            if in_place
            else _convolve_part(whole, weight, bias, plan, inner, owned)
        )
        exchange.wait()
        rims = (
            [(outputs[0], inner[0]), (inner[1], outputs[1])] if inner[1] > inner[0] else [outputs]
        )
        if in_place:
            parts = [plan.convolve_in_place(whole, pieces, weight, bias, rim) for rim in rims]
        else:
            joined = halo.join(whole, pieces)
            parts = [_convolve_part(joined, weight, bias, plan, rim, halo.need) for rim in rims]
        if inner[1] > inner[0]:
            parts.insert(1, middle)
        kept = [part for part in parts if part.shape[last.dim] > 0] or parts[:1]
        if in_place:  # backward alone needs them side by side
            ctx.save_for_backward(weight, whole, *(tensor for _, tensor in pieces))
            ctx.ranges = [held for held, _ in pieces]
        else:
            ctx.save_for_backward(weight, joined)
            ctx.ranges = None
        ctx.plan, ctx.halos, ctx.has_bias = plan, halos, bias is not None
        return kept[0] if len(kept) == 1 else torch.cat(kept, last.dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, whole, *tensors = ctx.saved_tensors
        plan: _Plan = ctx.plan
        if ctx.ranges is not None:
            whole = ctx.halos[-1].join(whole, list(zip(ctx.ranges, tensors, strict=True)))
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
        axis = Axis(
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
