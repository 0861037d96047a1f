"""When spread experts pay: bytes and memory by a model of the cost, time and error measured beside
the replicated mixture.

Replicated, every rank answers its own rows and a training step adds the gradients of all experts
over the ranks: bytes grow with the experts. Spread, rows travel: bytes grow with the rows. So
spreading pays where experts have more numbers than their rows, or where they do not fit on a rank.
Serving, a replicated mixture sends nothing: there spreading pays for memory alone.

Axes: B rows of a rank, W numbers of a row, K experts of a row, O outputs, N experts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.mixture import Bank, Mixture
from models.parallel.experts import AllToAllDispatch, LocalDispatch, owned
from models.parallel.measured import Row
from models.parallel.specialists import add_gradients

_STATE_BYTES: Final = 16
"""Of a trained float32 number: weight, gradient and AdamW's two moments."""
_PAIR_BYTES: Final = 8
_REPEATS: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a step of a float32 mixture costs a rank on average, with evenly chosen experts.

    Attributes:
        world: Ranks.
        rows: B.
        width: W.
        outputs: O.
        top: K.
        experts: N.
        numbers: Parameters of one expert.
    """

    world: int
    rows: int
    width: int
    outputs: int
    top: int
    experts: int
    numbers: int

    @property
    def parcels(self) -> float:
        """Rows that leave a rank; one that two experts of a rank answer leaves once."""
        held = self.experts / self.world
        stays = 1.0  # share of the choices that miss all of another rank's experts
        for chosen in range(self.top):
            stays *= max(0.0, self.experts - held - chosen) / (self.experts - chosen)
        return self.rows * (self.world - 1) * (1.0 - stays)

    @property
    def spread_bytes(self) -> float:
        """Sent by a rank in a training step where experts are spread: rows and answers, and the
        gradients of both.
        """
        pairs = self.rows * self.top * (self.world - 1) / self.world
        numbers = self.parcels * (self.width + self.outputs) * 4
        return 2 * numbers + pairs * (_PAIR_BYTES + 4) + 32 * (self.world - 1)

    @property
    def replicated_bytes(self) -> float:
        """Sent by a rank where experts are replicated: their gradients in a ring's all-reduce."""
        return 2 * (self.world - 1) / self.world * self.experts * self.numbers * 4

    @property
    def spread_memory_bytes(self) -> int:
        """Of the experts on the fullest rank, with their gradients and AdamW's moments."""
        return len(owned(self.experts, self.world, 0)) * self.numbers * _STATE_BYTES

    @property
    def replicated_memory_bytes(self) -> int:
        """Of all experts."""
        return self.experts * self.numbers * _STATE_BYTES

    @property
    def turns_at(self) -> int:
        """Parameters of an expert from which a training step sends less with spread experts."""
        return round(self.spread_bytes / replace(self, numbers=1).replicated_bytes)


def advice(cost: Cost) -> str:
    """A line of guidance: which of both a mixture should take to train."""
    better = "spread" if cost.numbers > cost.turns_at else "replicate"
    return (
        f"{better}: experts of {cost.numbers:,} parameters; with {cost.rows:,} rows a rank "
        f"spreading sends less from {cost.turns_at:,} on"
    )


class _Step:
    """One of the two mixtures, with its step."""

    def __init__(self, cost: Cost, group: dist.ProcessGroup, spread: bool) -> None:
        hidden = cost.numbers // (cost.width + cost.outputs)
        torch.manual_seed(1)
        experts = [
            nn.Sequential(
                nn.Linear(cost.width, hidden, bias=False),
                nn.SiLU(),
                nn.Linear(hidden, cost.outputs, bias=False),
            )
            for _ in range(cost.experts)
        ]
        self._group, self.dispatch = group, AllToAllDispatch(group)
        self._spread = spread
        here = owned(cost.experts, cost.world, dist.get_rank(group))
        if spread:
            mine = experts[here.start : here.stop]
            bank = Bank(mine, cost.outputs, first=here.start, count=cost.experts)
            self.mixture = Mixture(bank, self.dispatch, cost.top)
        else:
            self.mixture = Mixture(Bank(experts, cost.outputs), LocalDispatch(), cost.top)

    def train(self, rows: Tensor, share: Tensor) -> None:
        """Forward, backward to rows and shares too, and whatever makes the gradients whole."""
        self.mixture.zero_grad()
        said = self.mixture(rows.detach().requires_grad_(), share.detach().requires_grad_())
        said.square().sum().backward()
        if not self._spread:
            add_gradients(self.mixture.parameters(), self._group)

    def serve(self, rows: Tensor, share: Tensor) -> Tensor:
        """Forward alone."""
        with torch.inference_mode():
            answers: Tensor = self.mixture(rows, share)
            return answers


def _timed(work: Callable[[], object], group: dist.ProcessGroup) -> float:
    dist.barrier(group)
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _most(value: float, group: dist.ProcessGroup) -> float:
    found = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
    return float(found)


def _case(cost: Cost, group: dist.ProcessGroup, training: bool) -> Row:
    """Both ways in turns, so that what disturbs one disturbs the other."""
    spread, replicated = _Step(cost, group, True), _Step(cost, group, False)
    torch.manual_seed(2 + dist.get_rank(group))
    rows = torch.randn(cost.rows, cost.width)
    share = torch.softmax(3.0 * torch.randn(cost.rows, cost.experts), 1)
    error = float((spread.serve(rows, share) - replicated.serve(rows, share)).abs().max())
    ways = [(s.train if training else s.serve) for s in (spread, replicated)]
    for way in ways:
        way(rows, share)
    before = spread.dispatch.traffic.total_bytes
    ways[0](rows, share)
    sent = torch.tensor([spread.dispatch.traffic.total_bytes - before])
    dist.all_reduce(sent, group=group)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        for way, found in zip(ways, times, strict=True):
            found.append(_timed(lambda way=way: way(rows, share), group))  # type: ignore[misc]
    own, beside = (_most(median(found), group) for found in times)
    kind = "train" if training else "serve"
    memory = cost.spread_memory_bytes / cost.replicated_memory_bytes
    replicated_bytes = cost.world * cost.replicated_bytes if training else 0.0
    note = f"memory of the experts × {memory:.2f}, bytes beside {replicated_bytes:,.0f}"
    return Row(
        system="experts",
        case=f"{kind}: {cost.experts} of {cost.numbers:,}, top {cost.top}, {cost.rows} rows",
        reference_error=_most(error, group),
        bytes=int(sent),
        time_ms=own,
        beside="replicated",
        beside_ms=beside,
        ratio=beside / own,
        note=f"{note}; {advice(cost)}" if training else note,
    )


def measure(
    group: dist.ProcessGroup,
    *,
    sizes: tuple[int, ...] = (4_096, 65_536, 1_048_576),
    rows: int = 128,
    top: int = 2,
) -> list[Row]:
    """Training and serving steps with growing experts; a collective, the same on every rank.

    Args:
        group: The ranks; 2 experts are on each.
        sizes: Parameters of an expert; at least 256, of which multiples are taken.
        rows: B.
        top: K.
    """
    world = dist.get_world_size(group)
    base = Cost(
        world=world, rows=rows, width=128, outputs=128, top=top, experts=2 * world, numbers=256
    )
    grown = [replace(base, numbers=size // 256 * 256) for size in sizes]
    return [_case(cost, group, training) for training in (True, False) for cost in grown]
