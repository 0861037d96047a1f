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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from models.parallel.gradients import TopKConfig, TopKState, topk_hook
from models.training.cache import SETS, build
from models.training.evaluate import part, without_outcome

CLIP: Final = 1.0
CHUNK: Final = 8192
COLUMNS: Final = ("signals", "minutes", "case", "labels")
Rows = dict[str, np.ndarray[Any, Any]]


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


def train(folder: str, plan: Plan, seed: int, compressed: bool) -> dict[str, Any]:
    """One training of all ranks; rank 0 tells AUROCs, bytes and time."""
    world, rank = dist.get_world_size(), dist.get_rank()
    rows, test = (_mapped(Path(folder) / name) for name in ("train", "test"))
    torch.manual_seed(seed)
    network = Network(NetworkConfig())
    network.features.load_state_dict(torch.load(Path(folder) / "features.pt"))
    labels = rows["labels"]
    rates = [labels[:, r][labels[:, r] >= 0].mean() for r in range(len(RISKS))]
    base = torch.tensor(np.clip(np.nan_to_num(rates, nan=0.1), 1e-3, 0.5), dtype=torch.float32)
    with torch.no_grad():
        network.experts.head.bias.copy_(torch.logit(base))
    torch.manual_seed(seed * 1000 + rank)  # of what is hidden
    steps = len(rows["labels"]) // plan.batch
    total = steps * plan.epochs
    ddp = DistributedDataParallel(network, forward_sync_buffers=False)
    config = TopKConfig(
        ratio=plan.ratio,
        momentum=plan.momentum,
        clip_norm=CLIP,
        warmup_steps=int(plan.warmup * total),
    )
    optimiser = torch.optim.SGD(
        ddp.parameters(), plan.rate, momentum=0.0 if compressed else plan.momentum
    )
    if compressed:
        thinning = TopKState(network.named_parameters(), config, optimiser=optimiser)
        ddp.register_comm_hook(thinning, topk_hook)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, plan.rate, total_steps=total, pct_start=0.15, cycle_momentum=False
    )
    network.train()
    first = settled = ranks.socket_bytes()
    start = time.perf_counter()
    for epoch in range(plan.epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(rows["labels"]))
        for step in range(steps):
            mine = order[step * plan.batch : (step + 1) * plan.batch][rank::world]
            if epoch * steps + step == config.warmup_steps:
                settled = ranks.socket_bytes()
            loss = _loss(ddp, network, rows, np.sort(mine))
            optimiser.zero_grad()
            loss.backward()
            if not compressed:
                torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            schedule.step()
    took, last = time.perf_counter() - start, ranks.socket_bytes()
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


def trainings(
    device: torch.device, folder: str, plan: Plan, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Dense and thinned-out, seed by seed, in the same processes."""
    found = []
    for seed in seeds:
        for compressed in (False, True):
            found.append(train(folder, plan, seed, compressed))
            if dist.get_rank() == 0:
                print(json.dumps(found[-1]), flush=True)
    return found


def _inputs(rows: Rows, at: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    signals, minutes, case = (torch.from_numpy(rows[n][at].astype(np.float32)) for n in COLUMNS[:3])
    return signals, minutes, case


def _loss(ddp: DistributedDataParallel, network: Network, rows: Rows, at: Any) -> torch.Tensor:
    said = ddp(*disturbed(network, _inputs(rows, at)))
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
    sent = [float(np.mean([f["bytes_a_step"] for f in side])) for side in (dense, thin)]
    print(f"bytes a step {sent[0]:.0f} {sent[1]:.0f}: {sent[0] / sent[1]:.0f} times fewer")
    sent = [float(np.mean([f["bytes_overall"] for f in side])) for side in (dense, thin)]
    print(f"warm-up included {sent[0]:.0f} {sent[1]:.0f}: {sent[0] / sent[1]:.0f} times fewer")


if __name__ == "__main__":
    main()
