"""Parcels: which rows of a rank travel to which other, learnt by all in one exchange of counts.

A parcel is a row on its way to one rank, with the numbers and shares of all experts there that
answer it.

Axes: B rows, W numbers of a row, K experts of a row, O outputs, P pairs of a row and an expert.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from models.mixture import Bank, checked
from models.parallel.volumes import even_sizes

CODE: Final = torch.int32
"""An expert's number and whether its row is another than that of the pair before."""
_COUNTS: Final = 4

Section = list[Tensor]
Form = list[tuple[list[int], torch.dtype]]


def owned(count: int, world: int, rank: int) -> range:
    """Numbers of the experts that a rank owns: as even as can be, the first ranks one more."""
    sizes = even_sizes(count, world)
    start = sum(sizes[:rank])
    return range(start, start + sizes[rank])


@dataclass(slots=True)
class Traffic:
    """Bytes that left this rank.

    Attributes:
        out_bytes: Rows, shares and numbers of experts, on their way to owners.
        back_bytes: Answers.
        gradient_bytes: Gradients of both.
        count_bytes: How much follows: 32 bytes a rank and forward pass.
        exchanges: Exchanges in which rows, answers or gradients travelled.
    """

    out_bytes: int = 0
    back_bytes: int = 0
    gradient_bytes: int = 0
    count_bytes: int = 0
    exchanges: int = 0

    @property
    def total_bytes(self) -> int:
        """All of them."""
        return self.out_bytes + self.back_bytes + self.gradient_bytes + self.count_bytes


@dataclass(slots=True)
class Way:
    """How this rank reaches the others of a group.

    Attributes:
        group: The ranks; None for the default group.
        world: How many.
        rank: This one.
        wire: What rows, answers and their gradients travel as; None: as they are.
        traffic: What has left.
    """

    group: dist.ProcessGroup | None
    world: int
    rank: int
    wire: torch.dtype | None = None
    traffic: Traffic = field(default_factory=Traffic)


class Plan:
    """Who gets which rows of one forward pass; a collective.

    Parcels and pairs are in the order of the ranks, those of this rank in their place among them.

    Attributes:
        order: Pairs [P] in the order of parcels, as places in ids flattened.
        row: Of each parcel, which row of this rank it is.
        row_there: Of each pair that this rank answers, its parcel among those that arrived.
        expert_there: Of each such pair, its expert.
        parcels: For each rank, and `parcels_there` from each; pairs alike.
        wants: Whether this rank's rows want gradients; `wanted` whether those of each rank do.

    Raises:
        ValueError: A routing that is none, here or on another rank.
    """

    def __init__(self, via: Way, rows: Tensor, ids: Tensor, share: Tensor, bank: Bank) -> None:
        self.via, self.world, self.rank = via, via.world, via.rank
        self.wire = rows.dtype if via.wire is None else via.wire
        self.width, self.outputs = rows.shape[-1], bank.outputs
        self.dtypes = rows.dtype, share.dtype
        wrong = checked(ids, share, rows, bank.count)
        mine = owned(bank.count, via.world, via.rank)
        if not wrong and bank.held != mine:
            wrong = f"experts {bank.held} are here; rank {via.rank} of {via.world} owns {mine}"
        if wrong:
            ids, share = ids.new_zeros(0, 1).long(), share.new_zeros(0, 1)
        self.shape = share.shape
        owner = torch.tensor(
            [r for r in range(self.world) for _ in owned(bank.count, self.world, r)],
            device=rows.device,
        )
        to = owner[ids.reshape(-1)]
        self.order = to.argsort(stable=True)
        to, row = to[self.order], self.order // ids.shape[1]
        fresh = torch.ones_like(to, dtype=torch.bool)
        fresh[1:] = (to[1:] != to[:-1]) | (row[1:] != row[:-1])
        self.row = row[fresh]
        self._codes = (ids.reshape(-1)[self.order] * 2 + fresh).to(CODE)
        pairs = torch.bincount(to, minlength=self.world)
        parcels = torch.bincount(to[fresh], minlength=self.world)
        about = (bank.count, self.width, self.outputs, self.wire, share.dtype, self.world)
        said = f"{about} {'training' if torch.is_grad_enabled() else 'serving'}"
        counts = self._counts(parcels, pairs, rows.requires_grad, bool(wrong), said)
        if wrong:
            raise ValueError(wrong)
        self.parcels, self.pairs = parcels.tolist(), pairs.tolist()
        self.parcels_there, self.pairs_there = counts[:, 0].tolist(), counts[:, 1].tolist()
        self.wanted = (counts[:, 2] & 1).bool().tolist()
        self.wants = rows.requires_grad
        self.row_there = self.expert_there = self.order

    def _counts(
        self, parcels: Tensor, pairs: Tensor, wants: bool, wrong: bool, said: str
    ) -> Tensor:
        """What each rank sends here: parcels, pairs, flags and what it agrees about."""
        flags = torch.full_like(pairs, int(wants) + 2 * wrong)
        mark = torch.full_like(pairs, zlib.crc32(said.encode()))
        mine = torch.stack([parcels, pairs, flags, mark], 1)
        found = torch.empty_like(mine)
        dist.all_to_all_single(found, mine, group=self.via.group)
        self.via.traffic.count_bytes += (self.world - 1) * _COUNTS * 8
        found = found.cpu()
        if not wrong and (bad := (found[:, 2] & 2).nonzero().reshape(-1).tolist()):
            raise ValueError(f"rank {bad[0]} was given a routing that it refused")
        if not wrong and (other := (found[:, 3] != mark[0].cpu()).nonzero().reshape(-1).tolist()):
            raise ValueError(
                f"rank {other[0]} has another mixture or mode than this rank's (experts, width, "
                f"outputs, wire, shares, ranks) = {said}"
            )
        return found

    def there(self, codes: Tensor) -> None:
        """Learn from the codes of the pairs that arrived which rows and experts they are of."""
        self.expert_there = (codes >> 1).long()
        self.row_there = (codes & 1).long().cumsum(0) - 1

    def codes(self) -> Section:
        """Of the pairs for each rank."""
        return list(torch.split(self._codes, self.pairs))

    def swap(self, send: list[Section], shapes: list[Form]) -> tuple[list[Section], int]:
        """Send a section to every rank in one buffer; what came, by rank, and bytes that left.

        This rank's own section is handed over as it is.
        """
        device = send[0][0].device
        pieces = [
            [] if r == self.rank else [x.contiguous().view(-1).view(torch.uint8) for x in section]
            for r, section in enumerate(send)
        ]
        sizes = [sum(len(x) for x in piece) for piece in pieces]
        coming = [
            0 if r == self.rank else sum(_bytes(shape, dtype) for shape, dtype in form)
            for r, form in enumerate(shapes)
        ]
        flat = [x for piece in pieces for x in piece]
        sent = torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8, device=device)
        came = torch.empty(sum(coming), dtype=torch.uint8, device=device)
        if self.world > 1:
            dist.all_to_all_single(came, sent, coming, sizes, group=self.via.group)
        out, at = [], 0
        for r, form in enumerate(shapes):
            if r == self.rank:
                out.append(send[r])
                continue
            section = []
            for shape, dtype in form:
                size = _bytes(shape, dtype)
                piece = came[at : at + size]
                at += size
                aligned = piece if piece.storage_offset() % dtype.itemsize == 0 else piece.clone()
                section.append(aligned.view(dtype).view(shape))
            out.append(section)
        self.via.traffic.exchanges += 1
        return out, len(sent)


def _bytes(shape: list[int], dtype: torch.dtype) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= n
    return size
