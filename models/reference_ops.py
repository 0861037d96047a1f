"""What the kernels compute, in torch: the references of the operators in `models.ops`.

They run where no kernel does, and are what kernels are checked against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

LANDED, SUPERSEDED, LATE, TOUCHED = range(4)
"""What `ring_put` made of an observation: stored; a newer one of its bin stands; older than the
window; of a signal that the scale does not carry.
"""
ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


def ring_put(
    value: Tensor,
    within: Tensor,
    filled: Tensor,
    newest: Tensor,
    phase: Tensor,
    width_ms: int,
    slot: Tensor,
    column: Tensor,
    ts_ms: Tensor,
    observed: Tensor,
) -> Tensor:
    """Put a batch of observations into a scale of windows: `models.ops.ring_put`."""
    bins, count = value.shape[1:]
    slot = slot.long()
    touched = torch.unique(slot)
    old = newest[touched]
    newest.scatter_reduce_(0, slot, ts_ms, "amax")
    head = (newest[touched] - phase[touched]).div(width_ms, rounding_mode="floor")
    steps = head - (old - phase[touched]).div(width_ms, rounding_mode="floor")
    steps[old < 0] = 0
    # Row r holds the bin that lies (head - r) modulo `bins` before the last.
    back = (head[:, None] - torch.arange(bins, device=head.device)) % bins
    which, row = (back < steps[:, None]).nonzero(as_tuple=True)
    value[touched[which], row] = torch.nan
    within[touched[which], row] = -1
    filled[touched[which], row] = False

    bin_ = (ts_ms - phase[slot]).div(width_ms, rounding_mode="floor")
    last = (newest[slot] - phase[slot]).div(width_ms, rounding_mode="floor")
    status = torch.full(slot.shape, SUPERSEDED, dtype=torch.uint8, device=slot.device)
    status[bin_ <= last - bins] = LATE
    status[column < 0] = TOUCHED
    kept = (status == SUPERSEDED).nonzero()[:, 0]
    cell = ((slot * bins + bin_ % bins) * count + column)[kept]
    time = (ts_ms - phase[slot] - bin_ * width_ms)[kept].to(torch.int32)
    order = time.argsort(stable=True)
    order = order[cell[order].argsort(stable=True)]
    cell, time, kept = cell[order], time[order], kept[order]
    wins = torch.ones_like(cell, dtype=torch.bool)
    wins[:-1] = cell[1:] != cell[:-1]
    wins &= within.view(-1)[cell] <= time
    cell, time, kept = cell[wins], time[wins], kept[wins]
    within.view(-1)[cell] = time
    value.view(-1)[cell] = observed[kept]
    filled.view(-1)[cell // count] = True
    status[kept] = LANDED
    return status


def topk_indices(x: Tensor, k: int) -> Tensor:
    """Places of the entries of largest magnitude, ascending: `models.ops.topk_indices`."""
    magnitude = x.view(torch.int32) & 0x7FFFFFFF
    return magnitude.argsort(descending=True, stable=True)[:k].sort().values


def join(
    pieces: list[tuple[int, Tensor]],
    like: Tensor,
    dim: int,
    needed: tuple[int, int],
    window: tuple[int, int],
) -> Tensor:
    """What a part reads, padded along `dim`: the concatenation that the kernel does without."""
    parts = []
    reach = needed[0]
    for start, piece in pieces:
        stop = min(start + piece.shape[dim], needed[1])
        if stop > reach:
            parts.append(piece.narrow(dim, reach - start, stop - reach))
            reach = stop
    held = torch.cat(parts, dim) if parts else like.narrow(dim, 0, 0)
    before = min(max(0, -window[0]), window[1] - window[0])
    pad = [0] * 6
    at = 2 * (4 - dim)
    pad[at], pad[at + 1] = before, window[1] - window[0] - held.shape[dim] - before
    return F.pad(held, pad)


def convolve(
    part: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dim: int,
    activation: str,
) -> Tensor:
    """Convolve one part of a split volume from its joined input: `models.ops.conv3d_split`."""
    inner = torch.promote_types(part.dtype, torch.float32)
    rest = [0 if d == dim - 2 else padding[d] for d in range(3)]
    bias = None if bias is None else bias.to(inner)
    y = F.conv3d(part.to(inner), weight.to(inner), bias, stride, rest, dilation, groups)
    return ACTIVATIONS[activation](y).to(part.dtype).contiguous()
