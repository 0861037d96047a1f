"""A sparse mixture: a row is answered by the experts with its largest shares, wherever they are.

What an expert is does not matter here: a module from rows to answers. How a row comes to it is the
dispatch's part (`models.parallel.experts`): in this process, or over the ranks of a group.

Axes: B rows, W numbers of a row, N experts, K experts of a row, O outputs, P pairs of a row and an
expert.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn


class Bank(nn.Module):
    """The experts that this process holds, out of all.

    Args:
        experts: Each a module from rows [n, W] to answers [n, O], also for n = 0.
        outputs: O.
        first: Number of the first of them among all.
        count: N, of all processes; default: these are all.
    """

    def __init__(
        self,
        experts: Iterable[nn.Module],
        outputs: int,
        *,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.outputs, self.first = outputs, first
        self.count = first + len(self.experts) if count is None else count
        if not 0 <= first <= first + len(self.experts) <= self.count:
            raise ValueError(f"{len(self.experts)} experts from {first} on are not within {count}")

    @property
    def held(self) -> range:
        """Numbers of the experts that are here."""
        return range(self.first, self.first + len(self.experts))

    def forward(self, rows: Tensor, expert: Tensor) -> Tensor:
        """Answers [P, O] of rows [P, W], each by the expert [P] that its pair names."""
        order = expert.argsort(stable=True)
        sizes = torch.bincount(expert - self.first, minlength=len(self.experts)).tolist()
        parts = torch.split(rows.index_select(0, order), sizes) if len(self.experts) else ()
        # An expert without rows runs too: its gradient is then zero, as in a replicated network,
        # and not missing.
        said = [one(part) for one, part in zip(self.experts, parts, strict=True)]
        answers = torch.cat(said) if said else rows.new_empty(0, self.outputs)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return answers.index_select(0, back)


def answer(bank: Bank, rows: Tensor, share: Tensor, row: Tensor, expert: Tensor) -> Tensor:
    """Sums of the answers to each row by their shares, [B, O]; every expert is in this bank.

    Args:
        bank: The experts.
        rows: [B, W].
        share: Of each pair, [P].
        row: Of each pair, int64[P].
        expert: Of each pair, int64[P].
    """
    said = bank(rows.index_select(0, row), expert) * share.unsqueeze(1)
    total: Tensor = said.new_zeros(len(rows), bank.outputs).index_add(0, row, said)
    return total.to(rows.dtype)


class Dispatch(Protocol):
    """How rows come to their experts and back."""

    def __call__(self, rows: Tensor, ids: Tensor, share: Tensor, bank: Bank) -> Tensor:
        """Sums [B, O] of the experts' answers to rows [B, W], by shares.

        Args:
            rows: [B, W]; this process's own.
            ids: Numbers of each row's experts among all, int64[B, K].
            share: What each of them counts, [B, K].
            bank: The experts that are here.

        Raises:
            ValueError: An expert that does not exist, a share that is not finite, or shapes that do
                not belong together.
        """


class Mixture(nn.Module):
    """Rows go to the experts with their largest shares and come back as sums by these shares.

    Args:
        bank: The experts of this process.
        dispatch: How rows come to experts.
        top: K; default: all of them, which makes the mixture dense.
    """

    def __init__(self, bank: Bank, dispatch: Dispatch, top: int | None = None) -> None:
        super().__init__()
        self.bank, self.dispatch = bank, dispatch
        self.top = bank.count if top is None else top
        if not 1 <= self.top <= bank.count:
            raise ValueError(f"top must lie in [1, {bank.count}], not {top}")

    def forward(self, rows: Tensor, share: Tensor) -> Tensor:
        """Answers [B, O] to rows [B, W] with shares [B, N]; shares that are left out are dropped,
        the others stay as they are.
        """
        # Equal shares: the lower number goes first, in whatever batch the row stands.
        chosen = share.sort(dim=1, descending=True, stable=True)
        return self.dispatch(
            rows, chosen.indices[:, : self.top], chosen.values[:, : self.top], self.bank
        )


def checked(ids: Tensor, share: Tensor, rows: Tensor, count: int) -> str:
    """What is wrong with a routing, in a sentence; empty where nothing is."""
    if ids.shape != share.shape or ids.dim() != 2 or rows.dim() != 2 or len(ids) != len(rows):
        return (
            f"ids {list(ids.shape)} and shares {list(share.shape)} must be [B, K] "
            f"for rows {list(rows.shape)} [B, W]"
        )
    if ids.dtype != torch.int64 or not share.is_floating_point():
        return f"ids must be int64 and shares real numbers, not {ids.dtype} and {share.dtype}"
    if ids.numel() and not bool(((ids >= 0) & (ids < count)).all()):
        return f"expert {int(ids.min())} or {int(ids.max())} does not exist: there are {count}"
    if not bool(torch.isfinite(share).all()):
        return f"the share of row {int((~torch.isfinite(share)).any(1).nonzero()[0])} is not finite"
    return ""
