"""Expert parallelism: rows travel to the rank that owns their expert, answers travel back.

One exchange for a row: what leaves for a rank is one buffer of shares, experts and rows, and what
comes back are sums by shares. A row that two experts of one rank answer travels once. Rows of a
rank's own experts do not travel. The gradient takes the same way backwards.

Gradients are sums over the ranks' losses, as of one process that adds all of them: an owner's
expert gets the whole sum; what every rank holds a copy of (a gate) gets this rank's part, to be
added over the ranks. Ranks call forward and backward alike and equally often, also without rows.

Axes: B rows, W numbers of a row, K experts of a row, O outputs, P pairs of a row and an expert.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from models.mixture import Bank, answer, checked
from models.parallel.volumes import even_sizes

_CODE: Final = torch.int32
_COUNTS: Final = 4


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


class LocalDispatch:
    """All experts are in this process: the reference of every other dispatch."""

    def __call__(self, rows: Tensor, ids: Tensor, share: Tensor, bank: Bank) -> Tensor:
        """See `models.mixture.Dispatch`."""
        if wrong := checked(ids, share, rows, bank.count):
            raise ValueError(wrong)
        if len(bank.held) != bank.count:
            raise ValueError(f"{len(bank.held)} of {bank.count} experts are in this process")
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(ids.shape[1])
        return answer(bank, rows, share.reshape(-1), row, ids.reshape(-1))


class AllToAllDispatch:
    """Experts lie over the ranks of a group as `owned` says; a collective over the group.

    Args:
        group: The ranks; None for the default group. Every one of them makes this dispatch.
        wire: What rows, answers and their gradients travel as; default: as they are, exact.
            bfloat16 halves the bytes and rounds each of them to 8 bits once on each way.
        timeout_s: How long to wait for the other ranks to make theirs.

    Raises:
        ValueError: Another rank says that its group has other members.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        wire: torch.dtype | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.group, self.wire = group, wire
        self.world, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.traffic = Traffic()
        _agree(dist.get_process_group_ranks(group or dist.group.WORLD), timeout_s)

    def __call__(self, rows: Tensor, ids: Tensor, share: Tensor, bank: Bank) -> Tensor:
        """See `models.mixture.Dispatch`; a rank's mistake is every rank's ValueError."""
        plan = _Plan(self, rows, ids, share, bank)
        # A rank without rows or trainable inputs takes part in the backward pass as well.
        anchor = torch.zeros((), device=rows.device, requires_grad=torch.is_grad_enabled())
        there, weight = _Out.apply(rows, share, anchor, plan)
        said = answer(bank, there, weight, plan.row_there, plan.expert_there)
        return _Back.apply(said, anchor, plan)  # type: ignore[no-any-return]


Section = list[Tensor]


class _Plan:
    """Who gets which rows of one forward pass; learnt by all ranks in one exchange of counts.

    A parcel is a row on its way to one rank, with one pair or more. Parcels and pairs are in the
    order of the ranks, those of this rank in their place among them.

    Attributes:
        order: Pairs [P] in the order of parcels, as places in ids flattened.
        row: Of each parcel, which row of this rank it is.
        row_there: Of each pair that this rank answers, its parcel among those that arrived.
        expert_there: Of each such pair, its expert.
    """

    def __init__(
        self, via: AllToAllDispatch, rows: Tensor, ids: Tensor, share: Tensor, bank: Bank
    ) -> None:
        self.via, self.world, self.rank = via, via.world, via.rank
        self.wire = rows.dtype if via.wire is None else via.wire
        self.dtypes, self.width, self.outputs = (rows.dtype, share.dtype), rows.shape[-1], 0
        wrong = checked(ids, share, rows, bank.count)
        mine = owned(bank.count, via.world, via.rank)
        if not wrong and bank.held != mine:
            wrong = f"experts {bank.held} are here; rank {via.rank} of {via.world} owns {mine}"
        if wrong:
            ids, share = ids.new_zeros(0, 1), share.new_zeros(0, 1)
        self.outputs, self.shape = bank.outputs, share.shape
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
        self._codes = (ids.reshape(-1)[self.order] * 2 + fresh).to(_CODE)
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

    def swap(self, send: list[Section], shapes: list[list[tuple[list[int], torch.dtype]]]) -> Any:
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


class _Out(torch.autograd.Function):
    """Rows and shares to the owners; their gradients back."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, share: Tensor, anchor: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        ctx.plan, ctx.rows = plan, rows.shape
        shares = torch.split(share.reshape(-1)[plan.order], plan.pairs)
        parcels = torch.split(rows.index_select(0, plan.row), plan.parcels)
        send = [
            [s, c, p if r == plan.rank else p.to(plan.wire)]
            for r, (s, c, p) in enumerate(zip(shares, plan.codes(), parcels, strict=True))
        ]
        forms = [
            [([pairs], share.dtype), ([pairs], _CODE), ([parcels_, plan.width], plan.wire)]
            for pairs, parcels_ in zip(plan.pairs_there, plan.parcels_there, strict=True)
        ]
        came, size = plan.swap(send, forms)
        plan.via.traffic.out_bytes += size
        plan.there(torch.cat([section[1] for section in came]))
        there = torch.cat([section[2].to(rows.dtype) for section in came])
        return there, torch.cat([section[0] for section in came])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, there: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        send = []
        for r, (s, p) in enumerate(
            zip(
                torch.split(weight, plan.pairs_there),
                torch.split(there, plan.parcels_there),
                strict=True,
            )
        ):
            section = [s, p if r == plan.rank else p.to(plan.wire)]
            send.append(section if plan.wanted[r] or r == plan.rank else section[:1])
        forms = [
            [([pairs], plan.dtypes[1]), ([parcels, plan.width], plan.wire)][: 1 + plan.wants]
            for pairs, parcels in zip(plan.pairs, plan.parcels, strict=True)
        ]
        came, size = plan.swap(send, forms)
        plan.via.traffic.gradient_bytes += size
        share = weight.new_empty(plan.shape).view(-1)
        share[plan.order] = torch.cat([section[0] for section in came])
        rows = None
        if plan.wants:
            parts = torch.cat([section[1].to(plan.dtypes[0]) for section in came])
            rows = parts.new_zeros(ctx.rows).index_add(0, plan.row, parts)
        return rows, share.view(plan.shape), None, None


class _Back(torch.autograd.Function):
    """Answers back to the rows they are of, where those of several ranks are added."""

    @staticmethod
    def forward(ctx: Any, said: Tensor, anchor: Tensor, plan: _Plan) -> Tensor:
        ctx.plan = plan
        came, size = _return(plan, said, plan.parcels_there, plan.parcels)
        plan.via.traffic.back_bytes += size
        rows = plan.shape[0]
        return said.new_zeros(rows, plan.outputs).index_add(0, plan.row, torch.cat(came))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        parts = grad.index_select(0, plan.row)
        came, size = _return(plan, parts, plan.parcels, plan.parcels_there)
        plan.via.traffic.gradient_bytes += size
        return torch.cat(came), None, None


def _return(
    plan: _Plan, parts: Tensor, leave: Sequence[int], come: Sequence[int]
) -> tuple[list[Tensor], int]:
    """Parts [n, O] in the order of ranks, swapped."""
    send = [
        [p if r == plan.rank else p.to(plan.wire)]
        for r, p in enumerate(torch.split(parts, list(leave)))
    ]
    came, size = plan.swap(send, [[([n, plan.outputs], plan.wire)] for n in come])
    return [section[0].to(parts.dtype) for section in came], size


def _bytes(shape: list[int], dtype: torch.dtype) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= n
    return size


_made: dict[str, int] = {}


def _agree(members: list[int], timeout_s: float) -> None:
    """Wait until every member has said that its group has these members.

    Through the store, since a collective over groups that differ would never end.
    """
    store = dist.distributed_c10d._get_default_store()
    name = ",".join(str(rank) for rank in members)
    number = _made[name] = _made.get(name, 0) + 1
    store.set(f"vitalstream/experts/last/{dist.get_rank()}", name)
    store.set(f"vitalstream/experts/{name}/{number}/{dist.get_rank()}", name)
    for rank in members:
        try:
            store.wait(
                [f"vitalstream/experts/{name}/{number}/{rank}"], timedelta(seconds=timeout_s)
            )
        except RuntimeError as error:
            last = f"vitalstream/experts/last/{rank}"
            said = f"[{store.get(last).decode()}]" if store.check([last]) else "none"
            raise ValueError(
                f"this rank's experts lie over the ranks [{name}]; rank {rank} says {said}"
            ) from error
