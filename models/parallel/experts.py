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

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.mixture import Bank, answer, checked
from models.parallel.parcels import CODE, Plan, Traffic, Way, owned

__all__ = ["AllToAllDispatch", "LocalDispatch", "Traffic", "owned"]


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
        self._way = Way(group, dist.get_world_size(group), dist.get_rank(group), wire)
        _agree(dist.get_process_group_ranks(group or dist.group.WORLD), timeout_s)

    @property
    def traffic(self) -> Traffic:
        """What has left this rank."""
        return self._way.traffic

    def __call__(self, rows: Tensor, ids: Tensor, share: Tensor, bank: Bank) -> Tensor:
        """See `models.mixture.Dispatch`; a rank's mistake is every rank's ValueError."""
        plan = Plan(self._way, rows, ids, share, bank)
        # A rank without rows or trainable inputs takes part in the backward pass as well.
        anchor = torch.zeros((), device=rows.device, requires_grad=torch.is_grad_enabled())
        there, weight = _Out.apply(rows, share, anchor, plan)
        said = answer(bank, there, weight, plan.row_there, plan.expert_there)
        return _Back.apply(said, anchor, plan)  # type: ignore[no-any-return]


class _Out(torch.autograd.Function):
    """Rows and shares to the owners; their gradients back."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, share: Tensor, anchor: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor]:
        ctx.plan, ctx.rows = plan, rows.shape
        shares = torch.split(share.reshape(-1)[plan.order], plan.pairs)
        parcels = torch.split(rows.index_select(0, plan.row), plan.parcels)
        send = [
            [s, c, p if r == plan.rank else p.to(plan.wire)]
            for r, (s, c, p) in enumerate(zip(shares, plan.codes(), parcels, strict=True))
        ]
        forms = [
            [([pairs], share.dtype), ([pairs], CODE), ([parcels_, plan.width], plan.wire)]
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
        plan: Plan = ctx.plan
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
    def forward(ctx: Any, said: Tensor, anchor: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        came, size = _return(plan, said, plan.parcels_there, plan.parcels)
        plan.via.traffic.back_bytes += size
        rows = plan.shape[0]
        return said.new_zeros(rows, plan.outputs).index_add(0, plan.row, torch.cat(came))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        parts = grad.index_select(0, plan.row)
        came, size = _return(plan, parts, plan.parcels, plan.parcels_there)
        plan.via.traffic.gradient_bytes += size
        return torch.cat(came), None, None


def _return(
    plan: Plan, parts: Tensor, leave: Sequence[int], come: Sequence[int]
) -> tuple[list[Tensor], int]:
    """Parts [n, O] in the order of ranks, swapped."""
    send = [
        [p if r == plan.rank else p.to(plan.wire)]
        for r, p in enumerate(torch.split(parts, list(leave)))
    ]
    came, size = plan.swap(send, [[([n, plan.outputs], plan.wire)] for n in come])
    return [section[0].to(parts.dtype) for section in came], size


def _agree(members: list[int], timeout_s: float) -> None:
    """Wait until every member has said that its group has these members.

    Through the store, since a collective over groups that differ would never end.
    """
    store = dist.distributed_c10d._get_default_store()
    name = ",".join(str(rank) for rank in members)
    # Counted in the store, not here: a process may have been a rank of earlier worlds.
    number = store.add(f"vitalstream/experts/{name}/made/{dist.get_rank()}", 1)
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
