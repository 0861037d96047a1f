"""Training: all risks and the gate together, over sets that label different things.

A network of this size learns the training stays by heart within a few passes and gets worse on
others. So signals, minutes and single features are dropped at random, weights decay, trees
that have not seen a stay speak of it beside its label, and what is kept is the average of the last
steps' weights.

Deterministic: one thread's sums, one generator. The state after each epoch is on disk; a run that
was killed goes on after the last one and ends with the same weights.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from models.features import HIDEABLE, UNIT_MISSING, Features
from models.network import RISKS, Network, NetworkConfig
from models.training import gate
from models.training.cache import Table
from models.training.dense import like
from models.training.forest import LATE, LATE_FROM
from models.training.learner import Alone, Learner, Learners
from models.training.metrics import gains

_RECIPE: Final = 6
"""Counts changes of what is below: a state of another recipe is not gone on with."""
_BATCH: Final = 1024
_HIDE: Final = 0.4
_DROP: Final = 0.1
"""Of signals, made never measured; so that the network does without any of them."""
_DROP_MINUTES: Final = 0.1
_DROP_FEATURES: Final = 0.1
_GAIN: Final = 0.7
"""Share of the sepsis loss that asks whether an alarm in this hour gains utility."""
_TAUGHT: Final = 0.8
"""Share of a loss that follows the trees, where they speak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What determines the weights, besides the rows."""

    epochs: int = 8
    seed: int = 7


class Fitter(Protocol):
    """Trains a network; see `fit`."""

    def __call__(
        self,
        table: Table,
        features: Features,
        plan: Plan,
        work: Path,
        taught: NDArray[np.float32] | None = None,
    ) -> Network: ...


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


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What the rows are to teach: rows n, risks R.

    Attributes:
        label: [n, R], -1 where unknown.
        alarm: 1 where an alarm gains sepsis utility, [n]; weight how much it gains or costs.
        counts: Of a row for each risk, [n, R]: late hours count more for mortality.
        taught: What trees say, [n, R], NaN where nothing.
    """

    label: Tensor
    alarm: Tensor
    weight: Tensor
    counts: Tensor
    taught: Tensor

    @classmethod
    def of(cls, table: Table, taught: NDArray[np.float32] | None) -> _Lesson:
        """Of a table, with what trees say of its rows."""
        sepsis = table.labels[:, RISKS.index("sepsis")]
        gain = gains(sepsis, table.hour, table.stay)
        known = sepsis >= 0
        mean = float(np.abs(gain[known]).mean()) if known.any() else 1.0
        if taught is None:
            taught = np.full(table.labels.shape, np.nan, np.float32)
        counts = torch.ones(table.labels.shape)
        counts[torch.from_numpy(table.hour >= LATE_FROM), RISKS.index("mortality")] = LATE
        return cls(
            torch.from_numpy(table.labels.astype(np.float32)),
            torch.from_numpy((gain > 0).astype(np.float32)),
            torch.from_numpy((np.abs(gain) / mean).astype(np.float32)),
            counts,
            torch.from_numpy(taught),
        )

    def loss(self, logits: Tensor, at: Tensor) -> Tensor:
        """Sum over risks of the mean loss of the rows that teach them."""
        label, taught = self.label[at], self.taught[at]
        known = (label >= 0) * self.counts[at]
        each = binary_cross_entropy_with_logits(logits, label.clamp(0), reduction="none")
        sepsis = RISKS.index("sepsis")
        gain = binary_cross_entropy_with_logits(
            logits[:, sepsis], self.alarm[at], reduction="none", weight=self.weight[at]
        )
        mixed = (1.0 - _GAIN) * each[:, sepsis] + _GAIN * gain
        each = torch.cat([each[:, :sepsis], mixed.unsqueeze(1), each[:, sepsis + 1 :]], 1)
        total = _mean(each, known)
        told = ~taught.isnan()
        if told.any():
            like = binary_cross_entropy_with_logits(
                logits, taught.nan_to_num(0.0), reduction="none"
            )
            share = _TAUGHT * told.any(0).float()
            total = (1.0 - share) * total + share * _mean(like, told)
        return total.sum()


def _mean(each: Tensor, known: Tensor) -> Tensor:
    """Mean of each column by the rows' weights; 0 where none is known."""
    return (each * known).sum(0) / known.sum(0).clamp(1)


def fit(
    table: Table,
    features: Features,
    plan: Plan,
    work: Path,
    taught: NDArray[np.float32] | None = None,
    *,
    dense: bool = False,
    learners: Learners = Alone,
) -> Network:
    """The trained network, in serving mode, on the CPU; a collective of all that train it.

    Args:
        table: Rows of the training part only.
        features: With the training part's typical values.
        plan: Epochs and seed.
        work: Folder of the resumable state.
        taught: What trees say of the rows, see `teacher.teach`.
        dense: Without a mixture, of as many parameters; what an ablation compares with.
        learners: Who trains it: this process, or ranks, all of which give the same rows
            (`models.parallel.shared`, `models.parallel.spread`); the first one keeps the state.

    Raises:
        ValueError: A network without a mixture, or of a rank alone, is to be trained by ranks.
    """
    if dense and learners is not Alone:
        raise ValueError("a network without a mixture is trained by one process on its CPU")
    torch.set_num_threads(1)
    # What cuBLAS needs for sums in one order; it reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(plan.seed)
    network = Network(NetworkConfig())
    if dense:
        network = like(network)
    network.features.load_state_dict(features.state_dict())
    sample = np.random.default_rng(plan.seed).permutation(len(table.stay))[:200_000]
    network.novelty.fit(_inputs(table, np.sort(sample))[0])
    known = [table.labels[:, r][table.labels[:, r] >= 0] for r in range(len(RISKS))]
    rates = [label.mean() if len(label) else 0.1 for label in known]
    base = torch.tensor(np.clip(rates, 1e-3, 0.5), dtype=torch.float32)
    with torch.no_grad():
        network.experts.head.bias.copy_(torch.logit(base))
    if not dense:
        gate.teach(network, table, plan.seed)
    steps = -(-len(table.stay) // _BATCH)
    learner = learners(network, steps * plan.epochs)
    lesson = _Lesson.of(table, taught)
    rows = f"{len(table.stay)} {table.labels.sum()} {taught is None}"
    kind = (" dense" if dense else "") + learner.kind
    mark = hashlib.sha256(f"{_RECIPE} {plan} {rows}{kind}".encode()).hexdigest()
    state = work / f"state-{mark[:12]}.pt"
    done = _resumed(learner, state)
    with Progress(disable=not learner.leads) as progress:
        task = progress.add_task("training", total=plan.epochs * steps, completed=done * steps)
        for epoch in range(done, plan.epochs):
            rng = np.random.default_rng((plan.seed, epoch))
            torch.manual_seed(plan.seed * 1000 + epoch)
            order = rng.permutation(len(table.stay))
            learner.network.train()
            total = 0.0
            for start in range(0, len(order), _BATCH):
                at = np.sort(order[start : start + _BATCH])
                loss = _loss(learner.network, table, at, lesson)
                learner.step(loss)
                total += float(loss.detach())
                progress.advance(task)
            progress.update(task, description=f"epoch {epoch + 1}: loss {total / steps:.4f}")
            kept = learner.state()
            if learner.leads:
                work.mkdir(parents=True, exist_ok=True)
                part = state.with_suffix(".part")
                torch.save(kept | {"epochs": epoch + 1}, part)
                part.replace(state)
    return learner.trained()


def _resumed(learner: Learner, state: Path) -> int:
    """Go on from a state that the leading process has; how many epochs it has seen."""
    found: dict[str, Any] = {}
    if learner.leads and state.exists():
        found = torch.load(state, "cpu", weights_only=True)
    done = learner.agreed(int(found.pop("epochs", 0)))
    if done:
        learner.load(found)
    return done


def _loss(network: nn.Module, table: Table, at: NDArray[np.int64], lesson: _Lesson) -> Tensor:
    """Loss of some rows, some of whose features are hidden."""
    signals, minutes, case = _inputs(table, at)
    hidden = torch.rand(len(at)) < _HIDE
    case[hidden.nonzero(), torch.tensor(HIDEABLE)] = 0.0
    case[hidden, UNIT_MISSING] = 1.0
    lost = (torch.rand(len(at), signals.shape[1]) < _DROP).unsqueeze(2)
    signals = torch.where(lost, cast("Tensor", network.absent_D), signals)
    minutes = minutes * (torch.rand(len(at), 1, 1) >= _DROP_MINUTES)
    signals, minutes = (x * (torch.rand(x.shape) >= _DROP_FEATURES) for x in (signals, minutes))
    said = network(signals, minutes, case)
    return lesson.loss(said.logits, torch.from_numpy(at))


def describe(plan: Plan) -> dict[str, int]:
    """The plan as plain JSON."""
    return asdict(plan)
