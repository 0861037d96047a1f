"""Slabs: how one dimension of a volume lies over the ranks of a group, and how ranks exchange
pieces of it.

Legend: a slab is a rank's contiguous part [start, end) of the split dimension, in global indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each rank's slab of one dimension lies.

    Attributes:
        bounds: Rank r holds [bounds[r], bounds[r + 1]).
        rank: This process's rank in the group.
        group: The ranks, or None for the default group.
    """

    bounds: tuple[int, ...]
    rank: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, size: int, group: dist.ProcessGroup | None, device: torch.device) -> Layout:
        """Learn every rank's slab size; a collective of one integer."""
        world = dist.get_world_size(group)
        mine = torch.tensor([size], dtype=torch.int64, device=device)
        sizes = [torch.empty_like(mine) for _ in range(world)]
        dist.all_gather(sizes, mine, group=group)
        return cls.from_sizes([int(s) for s in sizes], group)

    @classmethod
    def from_sizes(cls, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Layout:
        """Take the slab sizes as known to all ranks."""
        if any(size < 0 for size in sizes):
            raise ValueError(f"slab sizes must not be negative: {list(sizes)}")
        bounds = [0]
        for size in sizes:
            bounds.append(bounds[-1] + size)
        return cls(tuple(bounds), dist.get_rank(group), group)

    @property
    def total(self) -> int:
        """Size of the whole dimension."""
        return self.bounds[-1]

    def owned(self, rank: int) -> Range:
        """The range that a rank holds."""
        return self.bounds[rank], self.bounds[rank + 1]


def intersect(a: Range, b: Range) -> Range:
    """The overlap of two ranges; empty ranges have end <= start."""
    return max(a[0], b[0]), min(a[1], b[1])


class Exchange:
    """Pieces of slabs on their way between ranks: started at once, waited for when needed."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self._ops: list[dist.P2POp] = []
        self._works: list[dist.Work] = []
        self.bytes_sent = 0

    def _peer(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)

    def send(self, piece: Tensor, rank: int) -> None:
        """Send a piece to a rank of the group."""
        piece = piece.contiguous()
        self.bytes_sent += piece.numel() * piece.element_size()
        self._ops.append(dist.P2POp(dist.isend, piece, self._peer(rank), self._group))

    def receive(self, into: Tensor, rank: int) -> Tensor:
        """Receive a piece from a rank of the group into a contiguous tensor, which is returned."""
        self._ops.append(dist.P2POp(dist.irecv, into, self._peer(rank), self._group))
        return into

    def start(self) -> None:
        """Let everything go."""
        if self._ops:
            self._works = dist.batch_isend_irecv(self._ops)

    def wait(self) -> None:
        """Wait until every piece has arrived and was sent."""
        for work in self._works:
            work.wait()
