"""All-to-all for volumes: split along one axis in, split along another out, never whole.

Each rank owns a slab along `from_dim`. The part of it that belongs to rank r along `to_dim` is
packed and sent to r and
to nobody else, so that the bytes on the wire are the lower bound: everything that changes its
owner, once. Packing is
cut into chunks along `from_dim`; while one chunk travels the next is packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

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


def _pack_bits(mask: Tensor) -> Tensor:
    """A boolean tensor as bits, 8 to a byte."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.contiguous().numpy(), bitorder="little"))
    flat = mask.reshape(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (flat * weights).sum(1, dtype=torch.uint8)


def _unpack_bits(bits: Tensor, count: int) -> Tensor:
    if bits.device.type == "cpu":
        flat = np.unpackbits(bits.numpy(), count=count, bitorder="little")
        return torch.from_numpy(flat).view(torch.bool)
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(1) >> shifts & 1).to(torch.bool).view(-1)[:count]


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
        x: This rank's slab along `from_dim`; slabs may differ in size there, and be empty.
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
        ValueError: The same axis twice, sizes that do not sum to the axis, or a mask of another
            shape.
    """
    from_dim, to_dim = from_dim % x.dim(), to_dim % x.dim()
    if from_dim == to_dim:
        raise ValueError(f"from_dim and to_dim are both {from_dim}")
    if mask is not None and (mask.shape != x.shape or mask.dtype != torch.bool):
        raise ValueError("mask must be boolean and of the slab's shape")
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    wanted = even_sizes(x.shape[to_dim], world) if sizes is None else [int(size) for size in sizes]
    if len(wanted) != world or min(wanted) < 0 or sum(wanted) != x.shape[to_dim]:
        raise ValueError(
            f"sizes {wanted} do not cut an axis of {x.shape[to_dim]} into {world} slabs"
        )
    source = Layout.of(x.shape[from_dim], group, x.device)
    target = Layout.from_sizes(wanted, group)
    shape = list(x.shape)
    shape[from_dim], shape[to_dim] = source.total, wanted[rank]
    out = x.new_full(shape, air) if mask is not None else x.new_empty(shape)
    own = out.narrow(from_dim, source.bounds[rank], x.shape[from_dim])
    own.copy_(x.narrow(to_dim, target.bounds[rank], wanted[rank]))
    traffic = traffic if traffic is not None else Traffic()
    # Round k: every rank sends to the rank k after it, so that no rank is everybody's target at
    # once.
    for step in range(1, world):
        to, of = (rank + step) % world, (rank - step) % world
        start, end = source.owned(of)
        outgoing = x.narrow(to_dim, target.bounds[to], wanted[to])
        incoming = out.narrow(from_dim, start, end - start)
        body = mask.narrow(to_dim, target.bounds[to], wanted[to]) if mask is not None else None
        _swap(outgoing, incoming, from_dim, (to, of), group, body, traffic)
    return out


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
    outgoing: Tensor,
    incoming: Tensor,
    dim: int,
    peers: tuple[int, int],
    group: dist.ProcessGroup | None,
    body: Tensor | None,
    traffic: Traffic,
) -> None:
    """Send one piece and receive another, chunk by chunk; a chunk is packed while the one before
    travels.
    """
    to, of = peers
    present = None
    if body is not None:  # a bit a voxel goes ahead, so that both ends know how much follows
        count = incoming.numel()
        bits = torch.empty((count + 7) // 8, dtype=torch.uint8, device=incoming.device)
        ahead = Exchange(group)
        if outgoing.numel():
            ahead.send(_pack_bits(body), to)
        if count:
            ahead.receive(bits, of)
        ahead.start()
        ahead.wait()
        traffic.sent_bytes += ahead.bytes_sent
        present = _unpack_bits(bits, count).view(incoming.shape)

    sends, receives = _chunks(outgoing, dim), _chunks(incoming, dim)
    under_way: list[tuple[Exchange, Tensor | None, Tensor | None, Tensor | None]] = []

    def finish() -> None:
        exchange, into, inside, received = under_way.pop(0)
        exchange.wait()
        if into is None or received is None:
            return
        values = received.view(into.dtype)
        if inside is None:
            into.copy_(values.view(into.shape))
        else:
            into.masked_scatter_(inside, values)

    for index in range(max(len(sends), len(receives))):
        exchange = Exchange(group)
        into = inside = received = None
        if index < len(sends):
            part = outgoing.narrow(dim, *sends[index])
            packed = part if body is None else part.masked_select(body.narrow(dim, *sends[index]))
            if packed.numel():
                exchange.send(_as_bytes(packed), to)
                traffic.lower_bound_bytes += packed.numel() * packed.element_size()
        if index < len(receives):
            into = incoming.narrow(dim, *receives[index])
            inside = None if present is None else present.narrow(dim, *receives[index])
            count = into.numel() if inside is None else int(inside.sum())
            if count:
                size = count * into.element_size()
                received = torch.empty(size, dtype=torch.uint8, device=into.device)
                exchange.receive(received, of)
        exchange.start()
        traffic.sent_bytes += exchange.bytes_sent
        under_way.append((exchange, into, inside, received))
        if len(under_way) > 1:
            finish()
    while under_way:
        finish()
