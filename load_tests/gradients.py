"""Does training with thinned-out gradients end where dense training ends? The network's form, 4
ranks, real stays, several seeds.

    python load_tests/gradients.py --data DATA --cache CACHE --work WORK

Both trainings take the same steps of the same optimiser (momentum SGD) on the same rows with the
same features hidden and the same weights at their start; only the exchange differs. Prints the
AUROC of each seed, the difference of the means with its standard error, and the bytes that left the
sockets.

At 0.1 % each weight moves once in a few hundred steps, so the number of steps counts, not that of
rows: small batches, several thousand steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

from models.features import Features
from models.federated.lesson import disturbed
from models.network import RISKS, Network, NetworkConfig
from models.parallel import ranks
from models.parallel.gradients import TopKConfig, TopKState, summed, thin, topk_hook
from models.training.cache import SETS, build
from models.training.evaluate import part, without_outcome

CLIP: Final = 1.0
CHUNK: Final = 8192
COLUMNS: Final = ("signals", "minutes", "case", "labels")
Rows = dict[str, np.ndarray[Any, Any]]
Backward = Callable[[Rows, Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What both trainings share; rows and batch of all ranks together, warm-up a share of steps."""

    rows: int
    test_rows: int
    batch: int
    epochs: int
    rate: float
    momentum: float
    ratio: float
    warmup: float


def train(folder: str, plan: Plan, seed: int, compressed: bool, played: int) -> dict[str, Any]:
    """One training of all ranks; AUROCs, bytes and time, as rank 0 tells them.

    Args:
        folder: Of the rows.
        plan: What trainings share.
        seed: Of weights, order and what is hidden.
        compressed: Whether gradients are thinned out.
        played: How many ranks this process plays; 0: it is one of those that are there.
    """
    world, rank = (played, 0) if played else (dist.get_world_size(), dist.get_rank())
    rows, test = (_mapped(Path(folder) / name) for name in ("train", "test"))
    torch.manual_seed(seed)
    network = Network(NetworkConfig())
    network.features.load_state_dict(torch.load(Path(folder) / "features.pt"))
    labels = rows["labels"]
    rates = [labels[:, r][labels[:, r] >= 0].mean() for r in range(len(RISKS))]
    base = torch.tensor(np.clip(np.nan_to_num(rates, nan=0.1), 1e-3, 0.5), dtype=torch.float32)
    with torch.no_grad():
        network.experts.head.bias.copy_(torch.logit(base))
    steps = len(rows["labels"]) // plan.batch
    total = steps * plan.epochs
    config = TopKConfig(
        ratio=plan.ratio,
        momentum=plan.momentum,
        clip_norm=CLIP,
        warmup_steps=int(plan.warmup * total),
    )
    optimiser = torch.optim.SGD(
        network.parameters(), plan.rate, momentum=0.0 if compressed else plan.momentum
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.rate, total_steps=total, pct_start=0.15, cycle_momentum=False
    )
    states = [
        TopKState(network.named_parameters(), config, optimiser=optimiser)
        for _ in range(max(1, played) if compressed else 0)
    ]
    backward: Backward
    if played:
        backward = Played(network, states, played, seed)
    else:
        torch.manual_seed(seed * 1000 + rank)  # of what is hidden
        ddp = DistributedDataParallel(network, forward_sync_buffers=False)
        if compressed:
            ddp.register_comm_hook(states[0], topk_hook)
        backward = partial(_own, ddp, network, rank, world)
    network.train()
    first = settled = _sent(played)
    start = time.perf_counter()
    for epoch in range(plan.epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(rows["labels"]))
        for step in range(steps):
            if epoch * steps + step == config.warmup_steps:
                settled = _sent(played)
            optimiser.zero_grad()
            backward(rows, order[step * plan.batch : (step + 1) * plan.batch])
            if not compressed:
                torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            schedule.step()
    took, last = time.perf_counter() - start, _sent(played)
    said: dict[str, Any] = {"seed": seed, "compressed": compressed, "seconds": round(took, 1)}
    said["bytes_a_step"] = round((last - settled) / (total - config.warmup_steps))
    said["bytes_overall"] = last - first
    if rank == 0:
        network.eval()
        with torch.inference_mode():
            starts = range(0, len(test["labels"]), CHUNK)
            parts = [network(*_inputs(test, slice(s, s + CHUNK))).logits for s in starts]
        logits = torch.cat(parts).numpy()
        for risk, name in enumerate(RISKS):
            known = test["labels"][:, risk] >= 0
            said[name] = float(roc_auc_score(test["labels"][known, risk], logits[known, risk]))
    return said


class Played:
    """The gradient that ranks would have agreed on, worked out by one process for all of them.

    The same arithmetic by the same functions; only that nothing travels.
    """

    def __init__(self, network: Network, states: list[TopKState], world: int, seed: int) -> None:
        self._network, self._states, self._world = network, states, world
        self._parameters = list(network.parameters())
        self._random = []
        for rank in range(world):  # of what is hidden, each rank's own
            torch.manual_seed(seed * 1000 + rank)
            self._random.append(torch.get_rng_state())

    def __call__(self, rows: Rows, at: Any) -> None:
        """The mean gradient of a batch's rows."""
        sizes = [parameter.numel() for parameter in self._parameters]
        parts, count = [], 0
        for rank in range(self._world):
            torch.set_rng_state(self._random[rank])
            self._network.zero_grad()
            _own(self._network, self._network, rank, self._world, rows, at)
            self._random[rank] = torch.get_rng_state()
            parts.append(torch.cat([_gradient(p).reshape(-1) for p in self._parameters]))
            if self._states:
                state = self._states[rank]
                parts[-1], count = thin(state, self._parameters, parts[-1], self._world)
                state.step += 1
        if self._states:
            bits = self._states[0].config.value_bits
            total = summed(parts, count, sum(sizes), bits) / self._world
            total /= self._states[0].rate(self._parameters[0])
        else:
            total = torch.stack(parts).mean(0)
        for parameter, mean in zip(self._parameters, torch.split(total, sizes), strict=True):
            parameter.grad = mean.view_as(parameter).clone()


def _own(
    model: torch.nn.Module, network: Network, rank: int, world: int, rows: Rows, at: Any
) -> None:
    """A rank's gradient of its part of a batch."""
    _loss(model, network, rows, np.sort(at[rank::world])).backward()


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _sent(played: int) -> int:
    return 0 if played else ranks.socket_bytes()


def trainings(
    device: torch.device | None, folder: str, plan: Plan, seeds: Sequence[int], played: int = 0
) -> list[dict[str, Any]]:
    """Dense and thinned-out, seed by seed, in the same processes."""
    found = []
    for seed in seeds:
        for compressed in (False, True):
            found.append(train(folder, plan, seed, compressed, played))
            if played or dist.get_rank() == 0:
                print(json.dumps(found[-1]), flush=True)
    return found


def _inputs(rows: Rows, at: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    signals, minutes, case = (torch.from_numpy(rows[n][at].astype(np.float32)) for n in COLUMNS[:3])
    return signals, minutes, case


def _loss(model: torch.nn.Module, network: Network, rows: Rows, at: Any) -> torch.Tensor:
    said = model(*disturbed(network, _inputs(rows, at)))
    label = torch.from_numpy(rows["labels"][at].astype(np.float32))
    known = label >= 0
    each = binary_cross_entropy_with_logits(said.logits, label.clamp(0), reduction="none")
    loss: torch.Tensor = ((each * known).sum(0) / known.sum(0).clamp(1)).sum()
    return loss


def _mapped(folder: Path) -> Rows:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}


def store(rows: Rows, folder: Path) -> None:
    """Columns of rows, where the ranks map them."""
    folder.mkdir(parents=True)
    for name in COLUMNS:
        np.save(folder / f"{name}.npy", rows[name])


def prepare(data: Path, cache: Path, work: Path, plan: Plan) -> None:
    """Rows of both parts on disk, where the ranks map them."""
    features = Features()
    table = build(data, cache, SETS, None, features)
    rng = np.random.default_rng(0)
    for name, most in (("train", plan.rows), ("test", plan.test_rows)):
        rows = without_outcome(part(table, name))
        chosen = np.sort(rng.permutation(len(rows.stay))[:most])
        store({column: getattr(rows, column)[chosen] for column in COLUMNS}, work / name)
    torch.save(features.state_dict(), work / "features.pt")


def main() -> None:
    """Train, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="Folder for rows and results.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="One process plays all ranks: less work, and no bytes to count.",
    )
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--test-rows", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--ratio", type=float, default=0.001)
    parser.add_argument("--warmup", type=float, default=0.2)
    given = parser.parse_args()
    plan = Plan(**{name: getattr(given, name) for name in Plan.__slots__})
    if not (given.work / "features.pt").exists():
        prepare(given.data, given.cache, given.work, plan)
    print(json.dumps(asdict(plan)), flush=True)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    if given.in_process:
        torch.set_num_threads(1)
        found = trainings(None, str(given.work), plan, seeds, given.ranks)
    else:
        found = ranks.run(trainings, given.ranks, str(given.work), plan, seeds)
    dense, thin = ([f for f in found if f["compressed"] is c] for c in (False, True))
    scores = [np.array([[f[name] for name in RISKS] for f in side]) for side in (dense, thin)]
    scores = [np.c_[one, one.mean(1)] for one in scores]
    for column, name in enumerate((*RISKS, "mean of four")):
        before, after = (one[:, column] for one in scores)
        off = after - before
        error = off.std(ddof=1) / len(off) ** 0.5 if len(off) > 1 else np.nan
        print(
            f"{name:12s} dense {before.mean():.4f} thinned {after.mean():.4f} "
            f"{off.mean():+.4f} (standard error {error:.4f})"
        )
    if given.in_process:
        return
    for what, column in (("a step", "bytes_a_step"), ("with the warm-up", "bytes_overall")):
        sent = [float(np.mean([f[column] for f in side])) for side in (dense, thin)]
        print(f"bytes {what} {sent[0]:.0f} {sent[1]:.0f}: {sent[0] / sent[1]:.0f} times fewer")


if __name__ == "__main__":
    main()
