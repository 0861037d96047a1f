"""Training over ranks: each takes its rows of a batch, the losses are those of one process.

Every rank is given the whole batch and draws the same random numbers for it, computes its own rows,
and hears what the others say of theirs. The loss of the batch is therefore computed once, by the
code that trains in one process, and its gradient is summed over the ranks.

    torchrun --nproc-per-node 4 -m models.parallel.train --data DATA --out OUT [--experts]

Axes: B rows of a batch, R risks, N experts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models import checkpoint
from models.federated import lesson
from models.network import Network
from models.parallel import transport
from models.parallel.batch_split import BatchSplit
from models.parallel.gradients import TopKConfig, TopKState, topk_hook
from models.parallel.specialists import SplitNetwork, expert_parallel
from models.training.cache import Table

RATE: Final = 1e-3
"""Of AdamW."""
THINNED_RATE: Final = 0.05
"""Of momentum SGD, which trains where gradients are thinned out."""
WARMUP: Final = 0.2
"""Share of a training's steps over which the share of the gradient that travels falls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What determines the weights, besides the rows and the start.

    Attributes:
        epochs: Passes over the rows.
        batch: Rows of a step, of all ranks together.
        rate: Learning rate; `RATE` suits AdamW and `THINNED_RATE` what `ratio` trains with.
        decay: Of the weights.
        clip: Bound of a step's gradient norm.
        seed: Of order, hiding and dropping.
        experts: Spread the specialists over the ranks.
        top: How many of them answer a row; default all.
        ratio: Share of the gradient's entries that travel (`models.parallel.gradients`), with
            momentum instead of AdamW; default: all of them.
    """

    epochs: int = 1
    batch: int = 1024
    rate: float = RATE
    decay: float = 0.02
    clip: float = 1.0
    seed: int = 7
    experts: bool = False
    top: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1:
            raise ValueError("epochs must not be negative, a batch has a row at least")
        if self.experts and self.ratio is not None:
            raise ValueError("gradients are compressed where all ranks hold all experts")
        if self.top is not None and not self.experts:
            raise ValueError("top is of experts spread over ranks")


class Stepper:
    """One network that learns batch by batch, alone or over the ranks of a group.

    Args:
        network: The start, the same on every rank.
        plan: How it learns.
        group: The ranks; None for this process alone.
        steps: Steps of the learning rate's cycle; default: it stays as it is.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        group: dist.ProcessGroup | None = None,
        steps: int | None = None,
    ) -> None:
        self._plan = plan
        self._split: SplitNetwork | None = None
        self._inner: Network | SplitNetwork = network
        trained: nn.Module = network
        if plan.experts:
            trained = self._inner = self._split = expert_parallel(network, group, top=plan.top)
        elif group is not None:
            trained = DistributedDataParallel(network, process_group=group, broadcast_buffers=False)
        averaged = isinstance(trained, DistributedDataParallel)
        self._network = BatchSplit(trained, group, averaged=averaged)
        parameters = list(self._inner.parameters())
        self._optimiser: torch.optim.Optimizer
        if plan.ratio is None:
            self._optimiser = torch.optim.AdamW(parameters, plan.rate, weight_decay=plan.decay)
        else:  # momentum lives in the hook, over what the ranks have not sent yet
            self._optimiser = torch.optim.SGD(parameters, plan.rate)
            if isinstance(trained, DistributedDataParallel):
                warm = int(WARMUP * (steps or 0))
                config = TopKConfig(ratio=plan.ratio, clip_norm=plan.clip, warmup_steps=warm)
                named = network.named_parameters()
                state = TopKState(named, config, group, self._optimiser)
                trained.register_comm_hook(state, topk_hook)
        self._schedule = (
            None
            if steps is None
            else torch.optim.lr_scheduler.OneCycleLR(
                self._optimiser,
                plan.rate,
                total_steps=steps,
                pct_start=0.15,
                cycle_momentum=plan.ratio is None,
            )
        )

    def step(self, table: Table, at: np.ndarray[Any, np.dtype[np.int64]]) -> float:
        """Learn from some rows, the same on every rank; the loss of all of them before."""
        self._network.train()
        loss = lesson.loss(cast("Network", self._network), table, at)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._split is not None:
            self._split.sum_gradients()
            self._split.clip_gradients(self._plan.clip)
        elif self._plan.ratio is None:
            torch.nn.utils.clip_grad_norm_(self._inner.parameters(), self._plan.clip)
        self._optimiser.step()
        if self._schedule is not None:
            self._schedule.step()
        return float(loss.detach())

    def whole(self) -> Network:
        """The network as one process holds it; a collective where specialists are spread."""
        return self._split.whole() if self._split is not None else cast("Network", self._inner)


def batches(rows: int, plan: Plan, number: int) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Rows of each step of a pass, ascending; the passes of a seed are numbered."""
    order = np.random.default_rng((plan.seed, number)).permutation(rows)
    for start in range(0, rows, plan.batch):
        yield np.sort(order[start : start + plan.batch])


def train(
    network: Network, table: Table, plan: Plan, group: dist.ProcessGroup | None = None
) -> tuple[Network, list[float]]:
    """The trained network, in serving mode, and the loss of each step; a collective.

    Args:
        network: The start, the same on every rank.
        table: All rows, the same on every rank.
        plan: How it learns.
        group: The ranks; None for this process alone.

    Raises:
        ValueError: There are no rows.
    """
    rows = len(table.stay)
    if not rows:
        raise ValueError("there are no rows to learn from")
    stepper = Stepper(network, plan, group, max(2, -(-rows // plan.batch) * plan.epochs))
    losses = []
    for epoch in range(plan.epochs):
        torch.manual_seed(plan.seed * 1000 + epoch)
        losses += [stepper.step(table, at) for at in batches(rows, plan, epoch)]
    return stepper.whole().eval(), losses


def joined(
    device: str | None = None, timeout_s: float = 600.0
) -> tuple[dist.ProcessGroup, torch.device]:
    """All ranks that `torchrun` started, joined by the best way there is, and this one's device.

    Args:
        device: Where tensors live; default: a CUDA device where there is one.
        timeout_s: How long a rank waits for the others in a collective.
    """
    store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    count = torch.cuda.device_count() if device is None else 0
    place = torch.device("cuda", dist.get_node_local_rank() % count if count else 0)
    place = place if count else torch.device(device or "cpu")
    transport.open_group(store, rank, world, place, timeout_s=timeout_s)
    assert dist.group.WORLD is not None
    return dist.group.WORLD, place


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="models.parallel.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="recorded sets, or rows.npz")
    parser.add_argument("--out", type=Path, required=True, help="where weights and losses go")
    parser.add_argument("--model", type=Path, help="weights to start from; default: those shipped")
    parser.add_argument("--fresh", type=int, help="draw the parameters anew by this seed")
    parser.add_argument("--experts", action="store_true", help="spread the specialists over ranks")
    parser.add_argument("--top", type=int, help="specialists that answer a row; default: all")
    parser.add_argument("--ratio", type=float, help="share of the gradient that travels")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1024, help="rows of a step, of all ranks")
    parser.add_argument(
        "--rate", type=float, help=f"learning rate; default {RATE}, with --ratio {THINNED_RATE}"
    )
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Train on this rank; rank 0 writes `model.safetensors`, its card and `losses.json`."""
    # Imported here: a hospital's rows need certificates and HTTP, ranks that are given a table not.
    from models.federated import learning

    chosen = _arguments(given)
    torch.set_num_threads(1)
    group, place = joined() if dist.is_torchelastic_launched() else (None, torch.device("cpu"))
    leader = group is None or dist.get_rank(group) == 0
    try:
        network, version = learning.base(chosen.model, chosen.fresh)
        if leader:
            table = learning.rows_of(chosen.data, chosen.out / "cache", network)
        if group is not None:
            dist.barrier(group)
        if not leader:
            table = learning.rows_of(chosen.data, chosen.out / "cache", network)
        plan = Plan(
            epochs=chosen.epochs,
            batch=chosen.batch,
            rate=chosen.rate or (RATE if chosen.ratio is None else THINNED_RATE),
            seed=chosen.seed,
            experts=chosen.experts,
            top=chosen.top,
            ratio=chosen.ratio,
        )
        trained, losses = train(network.to(place), table, plan, group)
        if leader:
            model, _ = checkpoint.load(chosen.model or checkpoint.SHIPPED)
            model.network = trained.cpu()
            card = {
                "trained": {
                    "from": version,
                    "ranks": 1 if group is None else dist.get_world_size(),
                },
                "note": "Calibration and thresholds are those of the start: calibrate before use.",
            }
            checkpoint.save(model, chosen.out / "model.safetensors", card)
            (chosen.out / "losses.json").write_text(json.dumps(losses) + "\n", "utf-8")
    finally:
        if group is not None:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
