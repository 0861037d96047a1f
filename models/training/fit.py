"""Training: all risks and the gate together, over sets that label different things.

Deterministic: one thread's sums, one generator. The state after each epoch is on disk; a run that
was killed goes on after the last one and ends with the same weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from models.features import HIDEABLE, UNIT_MISSING, Features
from models.network import RISKS, Network, NetworkConfig
from models.novelty import distance
from models.training.cache import Table

_RECIPE: Final = 2
"""Counts changes of what is below: a state of another recipe is not gone on with."""
_BATCH: Final = 2048
_RATE: Final = 1.5e-3
_DECAY: Final = 0.02
_GATE: Final = 0.2
_HIDE: Final = 0.4
_DROP: Final = 0.05
_TARGET: Final = {
    0: (1.0, 0.0, 0.0, 0.0),
    1: (0.0, 1.0, 0.0, 0.0),
    2: (0.0, 0.0, 1.0, 0.0),
    3: (0.0, 0.5, 0.5, 0.0),
}
"""The experts a labelled patient should be routed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What determines the weights, besides the rows."""

    epochs: int = 8
    seed: int = 7


def logits_of(network: Network, table: Table) -> tuple[NDArray[np.float64], ...]:
    """Logits, shares and novelty of every row, float64."""
    network.eval()
    out: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for start in range(0, len(table.stay), 4096):
            said = network(*_inputs(table, np.arange(start, min(start + 4096, len(table.stay)))))
            out.append((said.logits, said.share, said.novelty))
    return tuple(torch.cat(x).double().numpy() for x in zip(*out, strict=True))


def _inputs(table: Table, at: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    signals, minutes, case = (
        torch.from_numpy(x[at].astype(np.float32))
        for x in (table.signals, table.minutes, table.case)
    )
    return signals, minutes, case


def fit(table: Table, features: Features, plan: Plan, work: Path) -> Network:
    """The trained network, in serving mode.

    Args:
        table: Rows of the training part only.
        features: With the training part's typical values.
        plan: Epochs and seed.
        work: Folder of the resumable state.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(plan.seed)
    network = Network(NetworkConfig())
    network.features.load_state_dict(features.state_dict())
    sample = np.random.default_rng(plan.seed).permutation(len(table.stay))[:200_000]
    network.novelty.fit(distance(_inputs(table, np.sort(sample))[0]))
    rates = [table.labels[:, r][table.labels[:, r] >= 0].mean() for r in range(len(RISKS))]
    base = torch.tensor(np.clip(np.nan_to_num(rates, nan=0.1), 1e-3, 0.5), dtype=torch.float32)
    with torch.no_grad():
        network.experts.head.bias.copy_(torch.logit(base))
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
    steps = -(-len(table.stay) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _RATE, total_steps=steps * plan.epochs, pct_start=0.15
    )
    mark = hashlib.sha256(
        f"{_RECIPE} {plan} {len(table.stay)} {table.labels.sum()}".encode()
    ).hexdigest()
    state = work / f"state-{mark[:12]}.pt"
    work.mkdir(parents=True, exist_ok=True)
    done = 0
    if state.exists():
        found = torch.load(state, weights_only=True)
        network.load_state_dict(found["network"])
        optimiser.load_state_dict(found["optimiser"])
        schedule.load_state_dict(found["schedule"])
        done = int(found["epochs"])
    with Progress() as progress:
        task = progress.add_task("training", total=plan.epochs * steps, completed=done * steps)
        for epoch in range(done, plan.epochs):
            rng = np.random.default_rng((plan.seed, epoch))
            torch.manual_seed(plan.seed * 1000 + epoch)
            order = rng.permutation(len(table.stay))
            network.train()
            total = 0.0
            for start in range(0, len(order), _BATCH):
                loss = _loss(network, table, np.sort(order[start : start + _BATCH]))
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
                progress.advance(task)
            progress.update(task, description=f"epoch {epoch + 1}: loss {total / steps:.4f}")
            part = state.with_suffix(".part")
            torch.save(
                {
                    "network": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "epochs": epoch + 1,
                },
                part,
            )
            part.replace(state)
    return network.eval()


def _loss(network: Network, table: Table, at: NDArray[np.int64]) -> Tensor:
    signals, minutes, case = _inputs(table, at)
    hidden = torch.rand(len(at)) < _HIDE
    case[hidden.nonzero(), torch.tensor(HIDEABLE)] = 0.0
    case[hidden, UNIT_MISSING] = 1.0
    # A few signals are made never measured, so that the network does without any of them.
    lost = (torch.rand(len(at), signals.shape[1]) < _DROP).unsqueeze(2)
    signals = torch.where(lost, network.absent_D, signals)
    said = network(signals, minutes, case)
    label = torch.from_numpy(table.labels[at].astype(np.float32))
    known = (label >= 0).float()
    each = binary_cross_entropy_with_logits(said.logits, label.clamp(0), reduction="none")
    loss = ((each * known).sum(0) / known.sum(0).clamp(1)).sum()
    expert = table.expert[at]
    labelled = np.nonzero(expert >= 0)[0]
    if len(labelled):
        want = torch.tensor([_TARGET[int(e)] for e in expert[labelled]])
        # As far as a window is novel it belongs to the route of what the others have not seen.
        novel = said.novelty[labelled].detach().unsqueeze(1)
        want = want * (1.0 - novel) + novel * torch.tensor([0.0, 0.0, 0.0, 1.0])
        loss = loss - _GATE * (want * log_softmax(said.gate[labelled], 1)).sum(1).mean()
    return loss


def describe(plan: Plan) -> dict[str, int]:
    """The plan as plain JSON."""
    return asdict(plan)
