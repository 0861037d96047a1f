"""What the mixture is worth: an expert off, the gate off, the wrong expert, no mixture at all.

Experts and gate are worked out once; each way of taking the mixture apart is other shares of the
same experts. A dense network of as many parameters is trained apart (`models.training.ablation`).

Axes: n rows, N experts, R risks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import Calibrated
from models.evaluation import measures
from models.evaluation.bootstrap import Counts, Draws, interval
from models.evaluation.cohort import Cohort, stays_of
from models.evaluation.discrimination import Utility
from models.evaluation.tasks import Task, tasks_of
from models.evaluation.told import Told
from models.moe import ALWAYS, EXPERTS
from models.network import RISKS, Network, flat
from models.training.cache import SETS, features_of
from models.training.rows import rows_of
from models.training.split import part_of

Floats = NDArray[np.float64]
DENSE: Final = "dense"
ALONE: Final = "network"
"""Of the names of what was said: the network without the trees."""
SHOWN: Final = (
    "sepsis_physionet2019",
    "mortality_48h_physionet2012",
    "mortality_24h_eicu",
    "hypotension",
    "hypoxaemia",
)
_UNSEEN: Final = "eicu-demo"
_CHUNK: Final = 4096


@dataclass(frozen=True, slots=True)
class Apart:
    """The parts of what a network says.

    Attributes:
        logits: Of each expert, float64[n, N, R].
        share: The gate's, float64[n, N].
    """

    logits: Floats
    share: Floats

    @classmethod
    def of(
        cls, network: Network, signals: NDArray[Any], minutes: NDArray[Any], case: NDArray[Any]
    ) -> Apart:
        """Of features [n, S, D], [n, V, E] and [n, F]."""
        network.eval()
        logits, share = [], []
        with torch.inference_mode():
            for start in range(0, len(case), _CHUNK):
                some = slice(start, start + _CHUNK)
                said = network(*_tensors(signals[some], minutes[some], case[some]))
                logits.append(network.experts(said.hidden).double().numpy())
                share.append(said.share.double().numpy())
        return cls(np.concatenate(logits), np.concatenate(share))

    def said(self) -> dict[str, Floats]:
        """Logits [n, R] as they are, under "", and of each way of taking the mixture apart."""
        ways = {"": self.share} | changed(self.share)
        return {name: np.einsum("nk,nkr->nr", share, self.logits) for name, share in ways.items()}


def _tensors(*arrays: NDArray[Any]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(x.astype(np.float32)) for x in arrays)


def changed(share: Floats) -> dict[str, Floats]:
    """Other shares [n, N] of the same experts, each row's sum 1, by what was done.

    `without_X`: the others keep their proportions. `uniform`: the gate does not choose.
    `general_alone`: no specialist. `leading_specialist` and `wrong_specialist`: beside the general
    expert's least share all goes to the specialist with the largest, or the smallest share.
    """
    out: dict[str, Floats] = {}
    for i, name in enumerate(EXPERTS):
        rest = share.copy()
        rest[:, i] = 0.0
        out[f"without_{name}"] = rest / rest.sum(1, keepdims=True)
    out["uniform"] = np.full_like(share, 1.0 / len(EXPERTS))
    out["general_alone"] = _forced(share, np.zeros(len(share), np.int64))
    out["leading_specialist"] = _forced(share, 1 + share[:, 1:].argmax(1))
    out["wrong_specialist"] = _forced(share, 1 + share[:, 1:].argmin(1))
    return out


def _forced(share: Floats, expert: NDArray[np.int64]) -> Floats:
    out = np.zeros_like(share)
    out[:, 0] = ALWAYS
    out[np.arange(len(share)), expert] += 1.0 - ALWAYS
    return out


WAYS: Final = tuple(changed(np.full((1, len(EXPERTS)), 1.0 / len(EXPERTS))))


def blended(
    model: Calibrated, signals: NDArray[Any], minutes: NDArray[Any], case: NDArray[Any]
) -> dict[str, Floats]:
    """Probabilities [n, R] of weights as they serve, by the names that `compared` reads."""
    apart = Apart.of(model.network, signals, minutes, case)
    trees = []
    with torch.inference_mode():
        for start in range(0, len(case), _CHUNK):
            some = slice(start, start + _CHUNK)
            trees.append(model.trees(flat(*_tensors(signals[some], minutes[some], case[some]))))
    of_trees = torch.cat(trees).double()
    out: dict[str, Floats] = {}
    for name, logits in apart.said().items():
        own = torch.from_numpy(logits)
        odds = model.calibration.log_odds(own, of_trees, torch.from_numpy(case))
        out[named("", name)] = torch.sigmoid(odds).numpy()
        out[named(ALONE, name)] = torch.sigmoid(own).numpy()
    return out


def of_weights(
    cohort: Cohort, data: Path, model: Calibrated, limit: int | None = None
) -> dict[str, dict[str, Floats]]:
    """What weights say, as they are and taken apart, of eICU's test hospitals: no training sees
    them, whereas shipped weights have seen the patients of the other sets.

    By name and risk, of all rows of the cohort, NaN where nothing.
    """
    number = {
        record: int(i)
        for i, record in enumerate(cohort.record)
        if cohort.source[i] == SETS.index(_UNSEEN)
    }
    made: list[tuple[NDArray[Any], ...]] = []
    at: list[NDArray[np.int64]] = []
    for stay in stays_of(data, _UNSEEN, limit):
        if part_of(stay) == "test":
            rows = rows_of(stay)
            first = int(np.searchsorted(cohort.stay, number[stay.record]))
            at.append(first + np.arange(len(rows.hour)))
            made.append(features_of(model.network.features, rows, np.arange(len(rows.hour))))
    out: dict[str, dict[str, Floats]] = {}
    if made:
        row = np.concatenate(at)
        for name, p in blended(
            model, *(np.concatenate(x) for x in zip(*made, strict=True))
        ).items():
            whole = np.full((len(cohort.stay), len(RISKS)), np.nan)
            whole[row] = p
            out[name] = {risk: whole[:, i] for i, risk in enumerate(RISKS)}
    return out


def by_risk(cohort: Cohort, told: Told) -> dict[str, Floats]:
    """Probabilities of all rows of the cohort by risk, NaN where nothing is said."""
    whole = np.full((len(cohort.stay), len(RISKS)), np.nan)
    whole[told.row] = told.p
    return {risk: whole[:, i] for i, risk in enumerate(RISKS)}


def named(member: str, way: str) -> str:
    """The name of what was said by the blend ("") or a member, taken apart in a way ("": not)."""
    return "_".join(part for part in (member, way) if part)


def compared(cohort: Cohort, said: dict[str, dict[str, Floats]]) -> dict[str, Any]:
    """How far the mixture is ahead of each way of taking it apart, by task.

    Args:
        cohort: All rows.
        said: Probabilities of all rows of the cohort by name (`named`) and risk, NaN where nothing.

    Returns:
        By task and member (`blended`, `network_alone`): what the mixture reaches, and `ahead` of
        each way, paired on the same patients; positive means that the change hurts.
    """
    out: dict[str, Any] = {}
    nothing = np.full(len(cohort.stay), np.nan)
    whole = {risk: said[""].get(risk, nothing) for risk in RISKS}
    rows = {risk: np.nonzero(np.isfinite(p))[0] for risk, p in whole.items()}
    for task in tasks_of(cohort, rows):
        if task.name in SHOWN:
            draws = Draws(cohort.stay[task.row])
            judge = Utility(cohort, task.row) if task.risk == "sepsis" else None
            found = {
                word: _member(task, said, member, draws, judge)
                for member, word in (("", "blended"), (ALONE, "network_alone"))
                if task.risk in said.get(member, {})
            }
            if found:
                out[task.name] = {
                    "rows": len(task.row),
                    "events": int(task.label.sum()),
                    "patients": draws.patients,
                } | found
    return out


def _member(
    task: Task,
    said: dict[str, dict[str, Floats]],
    member: str,
    draws: Draws,
    judge: Utility | None,
) -> dict[str, Any]:
    whole = _measured(task, said[member][task.risk][task.row], draws, judge)
    ahead: dict[str, Any] = {}
    for way in (DENSE, *WAYS):
        column = said.get(named(member, way), {}).get(task.risk)
        if column is not None and np.isfinite(column[task.row]).all():
            other = _measured(task, column[task.row], draws, judge)
            ahead[way] = {name: interval(whole[name] - other[name]) for name in whole}
    return {name: interval(value) for name, value in whole.items()} | {"ahead_of": ahead}


def _measured(task: Task, p: Floats, draws: Draws, judge: Utility | None) -> dict[str, Floats]:
    counts = Counts.of(p, task.label, draws)
    said = {"auroc": measures.auroc(counts), "auprc": measures.auprc(counts)}
    if judge is not None:
        said["utility"] = judge.of(judge.alarms(p, draws.at), draws)
    return said
