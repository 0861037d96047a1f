"""All-to-all for volumes: split along one axis in, split along another out, never whole.

Each rank owns a slab along `from_dim`. The part of it that belongs to rank r along `to_dim` is
packed and sent to r and to nobody else, so that the bytes on the wire are the lower bound:
everything that changes its owner, once. Packing is cut into chunks along `from_dim`; while one
chunk travels the next is packed. Gradients take the same way back.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.parallel import body
from models.parallel.slabs import Exchange, Layout

CHUNK_BYTES = 8 << 20
"""Piece that is packed while the one before travels: large enough to fill a link, small beside a
volume.
"""


@dataclass(slots=True)
class Traffic:
    """What a reshard sent from this rank.

    Attributes:
        sent_bytes: Bytes of values and mask that left this rank.
        lower_bound_bytes: Bytes of values that had to: all that changes its owner and, with a mask,
            is not air.
    """

    sent_bytes: int = 0
    lower_bound_bytes: int = 0


def even_sizes(total: int, world: int) -> list[int]:
    """Sizes that differ by one at most, larger first (as `torch.tensor_split`)."""
    return [total // world + (rank < total % world) for rank in range(world)]


def _as_bytes(x: Tensor) -> Tensor:
    """The tensor's bytes, flat: every dtype travels, also those that a backend does not know."""
    return x.contiguous().view(-1).view(torch.uint8)


def reshard(
    x: Tensor,
    *,
    from_dim: int,
    to_dim: int,
    group: dist.ProcessGroup | None = None,
    sizes: Sequence[int] | None = None,
    mask: Tensor | None = None,
    air: float | int | bool = 0,
    traffic: Traffic | None = None,
) -> Tensor:
    """Turn a volume split along one axis into the same volume split along another; a collective.

    Args:
        x: This rank's slab along `from_dim`; slabs may differ in size there, and be empty. Where
            it wants a gradient on one rank it does on all.
        from_dim: The axis the volume is split along.
        to_dim: The axis it is to be split along.
        group: The ranks in the order of the slabs.
        sizes: Each rank's size along `to_dim`, the same list on every rank; default: as even as can
            be.
        mask: Boolean, of `x`'s shape: the body. Where it is False every voxel of `x` must equal
            `air` and is not sent;
            the mask travels as one bit a voxel.
        air: The value outside the body.
        traffic: Filled with the bytes that were sent.

    Returns:
        This rank's slab along `to_dim`, contiguous.

    Raises:
        ValueError: An axis that the volume has not, the same one twice, sizes that do not sum to
            the axis, or a mask of another shape.
    """
    from_dim, to_dim = _axis(x, from_dim, "from_dim"), _axis(x, to_dim, "to_dim")
    if from_dim == to_dim:
        raise ValueError(f"from_dim and to_dim are both {from_dim}")
    if mask is not None and (mask.shape != x.shape or mask.dtype != torch.bool):
        raise ValueError("mask must be boolean and of the slab's shape")
    world = dist.get_world_size(group)
    wanted = even_sizes(x.shape[to_dim], world) if sizes is None else [int(size) for size in sizes]
    if len(wanted) != world or min(wanted) < 0 or sum(wanted) != x.shape[to_dim]:
        raise ValueError(
            f"sizes {wanted} do not cut an axis of {x.shape[to_dim]} into {world} slabs"
        )
    source = Layout.of(x.shape[from_dim], group, x.device)
    way = _Way(from_dim, to_dim, source, Layout.from_sizes(wanted, group))
    traffic = traffic if traffic is not None else Traffic()
    if torch.is_grad_enabled() and x.requires_grad:
        return _Reshard.apply(x, way, mask, air, traffic)  # type: ignore[no-any-return]
    return way.move(x, mask, air, traffic)


def _axis(x: Tensor, dim: int, name: str) -> int:
    axis = operator.index(dim)
    if not -x.dim() <= axis < x.dim():
        raise ValueError(f"{name} must name one of {x.dim()} axes, not {dim}")
    return axis % x.dim()


@dataclass(frozen=True, slots=True)
class _Way:
    """From slabs along one axis to slabs along another."""

    from_dim: int
    to_dim: int
    source: Layout
    target: Layout

    def back(self) -> _Way:
        """The way that gradients take."""
        return _Way(self.to_dim, self.from_dim, self.target, self.source)

    def move(
        self, x: Tensor, mask: Tensor | None, air: float | int | bool, traffic: Traffic
    ) -> Tensor:
        """This rank's new slab, of its old one; a collective."""
        x = x.resolve_conj().resolve_neg()  # what travels are the bytes in memory
        source, target, group = self.source, self.target, self.source.group
        world, rank = len(source.bounds) - 1, source.rank
        sizes = [end - start for start, end in map(target.owned, range(world))]
        shape = list(x.shape)
        shape[self.from_dim], shape[self.to_dim] = source.total, sizes[rank]
        out = x.new_full(shape, air) if mask is not None else x.new_empty(shape)

        def leaving(tensor: Tensor, to: int) -> Tensor:
            return tensor.narrow(self.to_dim, target.bounds[to], sizes[to])

        def arriving(of: int) -> Tensor:
            start, end = source.owned(of)
            return out.narrow(self.from_dim, start, end - start)

        # A bit a voxel goes ahead, so that both ends know how much follows.
        ahead, present = Exchange(group), {}
        # Round k: every rank sends to the rank k after it, so that no rank is everybody's target
        # at once.
        rounds = [((rank + k) % world, (rank - k) % world) for k in range(1, world)]
        for to, of in rounds if mask is not None else ():
            assert mask is not None
            if (part := leaving(mask, to)).numel():
                ahead.send(body.to_bits(part), to)
            present[of] = x.new_empty(body.bits_bytes(arriving(of).numel()), dtype=torch.uint8)
            if present[of].numel():
                ahead.receive(present[of], of)
        ahead.start()
        arriving(rank).copy_(leaving(x, rank))
        ahead.wait()
        traffic.sent_bytes += ahead.bytes_sent
        for to, of in rounds:
            inside = None if mask is None else leaving(mask, to)
            into, bits = arriving(of), present.get(of)
            there = None if bits is None else body.of_bits(bits, into.numel()).view(into.shape)
            ends = (leaving(x, to), inside, to), (into, there, of)
            _swap(*ends, self.from_dim, group, traffic)
        return out


class _Reshard(torch.autograd.Function):
    """There, and gradients back; air is constant, so it has none."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        way: _Way,
        mask: Tensor | None,
        air: float | int | bool,
        traffic: Traffic,
    ) -> Tensor:
        ctx.way, ctx.mask, ctx.traffic = way, mask, traffic
        return way.move(x, mask, air, traffic)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        back = ctx.way.back().move(grad, None, 0, ctx.traffic)
        back = back if ctx.mask is None else back.masked_fill(~ctx.mask, 0)
        return back, None, None, None, None


def _chunks(x: Tensor, dim: int) -> list[tuple[int, int]]:
    """Ranges along a dimension of about `CHUNK_BYTES` each; both ends compute the same from the
    shape.
    """
    size = x.shape[dim]
    row_bytes = max(1, x.numel() // max(1, size) * x.element_size())
    rows = max(1, CHUNK_BYTES // row_bytes)
    if x.numel() == 0:
        return []
    return [(start, min(rows, size - start)) for start in range(0, size, rows)]


def _swap(
    leaves: tuple[Tensor, Tensor | None, int],
    arrives: tuple[Tensor, Tensor | None, int],
    dim: int,
    group: dist.ProcessGroup | None,
    traffic: Traffic,
) -> None:
    """Send one piece to a rank and receive another of one, chunk by chunk; a chunk is packed while
    the one before travels. Each piece comes with what of it is inside, where air does not travel.
    """
    outgoing, inside, to = leaves
    incoming, present, of = arrives
    sends, receives = _chunks(outgoing, dim), _chunks(incoming, dim)
    under_way: list[tuple[Exchange, Tensor | None, Tensor | None, Tensor | None]] = []

    def finish() -> None:
        exchange, into, there, received = under_way.pop(0)
        exchange.wait()
        if into is None or received is None:
            return
        values = received.view(into.dtype)
        if there is None:
            into.copy_(values.view(into.shape))
        else:
            body.put(into, there, values)

    for index in range(max(len(sends), len(receives))):
        exchange = Exchange(group)
        into = there = received = None
        if index < len(sends):
            part = outgoing.narrow(dim, *sends[index])
            packed = part if inside is None else body.take(part, inside.narrow(dim, *sends[index]))
            if packed.numel():
                exchange.send(_as_bytes(packed), to)
                traffic.lower_bound_bytes += packed.numel() * packed.element_size()
        if index < len(receives):
            into = incoming.narrow(dim, *receives[index])
            there = None if present is None else present.narrow(dim, *receives[index])
            count = into.numel() if there is None else body.count(there)
            if count:
                size = count * into.element_size()
                received = torch.empty(size, dtype=torch.uint8, device=into.device)
                exchange.receive(received, of)
        exchange.start()
        traffic.sent_bytes += exchange.bytes_sent
        under_way.append((exchange, into, there, received))
        if len(under_way) > 1:
            finish()
    while under_way:
        finish()
