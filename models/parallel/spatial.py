"""3D convolution on a volume that is split over ranks along one or more spatial dimensions.

Each output position belongs to the rank whose slab holds the centre of its receptive field, so that
a convolution with `same` padding keeps every slab's size and a strided one shrinks all slabs alike.
A rank fetches the halo that its outputs need, from as many neighbours as it spans, and computes its
interior meanwhile.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from models.parallel.convolution import Convolution, Numbers, Settings
from models.parallel.halo import Axis, Halo, interior
from models.parallel.slabs import Layout

Group = dist.ProcessGroup | None


class _SplitConv3d(torch.autograd.Function):
    """Forward: fetch halos, convolve the interior meanwhile, then the rims; and back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Convolution, overlap: bool
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
            plan.in_place(whole, [], weight, bias, inner)
            if in_place
            else plan.part(whole, weight, bias, inner, owned)
        )
        exchange.wait()
        rims = (
            [(outputs[0], inner[0]), (inner[1], outputs[1])] if inner[1] > inner[0] else [outputs]
        )
        if in_place:
            parts = [plan.in_place(whole, pieces, weight, bias, rim) for rim in rims]
        else:
            joined = halo.join(whole, pieces)
            parts = [plan.part(joined, weight, bias, rim, halo.need) for rim in rims]
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
        plan: Convolution = ctx.plan
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
                list(plan.settings.stride),
                list(plan.padding),
                list(plan.settings.dilation),
                False,
                [0, 0, 0],
                plan.settings.groups,
                mask,
            )

        # Every rank takes part in the exchange, also one whose own slab needs no gradient.
        dx, _, _ = part([True, False, False])
        assert dx is not None
        for dim in (2, 3, 4):
            at = 2 * (4 - dim)
            dx = dx.narrow(dim, pad[at], dx.shape[dim] - pad[at] - pad[at + 1])
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


def split_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    dim: int | Sequence[int],
    group: Group | Sequence[Group] | DeviceMesh = None,
    overlap: bool = True,
) -> Tensor:
    """Convolve a volume split over ranks; a collective over `group`.

    Args:
        x: This rank's slab, [N, C, D, H, W]; slabs may differ in size along `dim`, and be empty.
        weight: [O, C / groups, kD, kH, kW], the same on every rank.
        bias: [O] or None.
        stride: As in `torch.nn.functional.conv3d`.
        padding: As there, in zeros on both sides of the whole volume; also "same" and "valid".
        dilation: As there.
        groups: As there.
        dim: The split dimension, 2, 3 or 4; or two of them for a volume split over a mesh.
        group: Its ranks in the order of the slabs; one for each dimension where `dim` names
            several, or a mesh of devices with a dimension for each.
        overlap: Whether the interior is computed while the halo travels: three smaller
            convolutions for one.

    Returns:
        This rank's slab of what `conv3d` gives for the whole. Concatenated in rank order, the slabs
        are exactly that. Gradients: of `x` for this rank's slab; of `weight` and `bias` this rank's
        share, whose sum over the ranks is the whole.

    Raises:
        ValueError: A dimension that is not spatial, settings or shapes that are no 3D convolution,
            or a kernel wider than the padded volume.
    """
    if x.dim() != 5 or weight.dim() != 5:
        raise ValueError(f"x and weight must have 5 dimensions, not {x.dim()} and {weight.dim()}")
    named = list(dim) if isinstance(dim, Sequence) else [dim]
    dims = [d + 5 if d < 0 else d for d in map(operator.index, named)]
    groups_of: list[Group]
    if isinstance(group, DeviceMesh):
        groups_of = [group.get_group(d) for d in range(group.ndim)]
    else:
        groups_of = list(group) if isinstance(group, Sequence) else [group]
    if len(dims) != len(groups_of) or len(set(dims)) != len(dims) or not set(dims) <= {2, 3, 4}:
        raise ValueError(f"dim must name 2, 3 or 4 with one group each, not {dim!r}")
    settings = Settings.of(weight, stride, padding, dilation, groups)
    axes = []
    for d, ranks in zip(dims, groups_of, strict=True):
        axis = Axis(
            dim=d,
            layout=Layout.of(x.shape[d], ranks, x.device),
            kernel=weight.shape[d],
            stride=settings.stride[d - 2],
            padding=settings.before[d - 2],
            after=settings.after[d - 2],
            dilation=settings.dilation[d - 2],
        )
        if axis.out_total < 1:
            raise ValueError(f"the kernel spans more than the padded volume along dimension {d}")
        axes.append(axis)
    plan = Convolution(tuple(axes), settings)
    return _SplitConv3d.apply(x, weight, bias, plan, overlap)  # type: ignore[no-any-return]
