"""The gate's lesson: which patients belong to which expert, learned before all else and then kept.

The gate is fitted first, alone, and the experts are trained under its shares: so what a share means
does not drift with what lowers the loss of a risk. Each specialist's part is held against all the
others' by itself, so that a patient with both a cancer and a failing heart counts for both.

Axes: n rows, N experts.
"""

from __future__ import annotations

import copy
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.features import CASE_FEATURES, SLOW, UNIT_MISSING, UNITS, F
from models.moe import EXPERTS, STEEP
from models.network import Network
from models.training.cache import SETS, Table

_AT: Final = {name: i for i, name in enumerate(CASE_FEATURES)}
_UNITS: Final = [_AT[name] for name in UNITS]
_PROBLEMS: Final = [_AT[name] for name in ("problems", "oncology", "cardiac", "rare")]
_ONCOLOGY, _CARDIOLOGY, _RARE = (EXPERTS.index(name) for name in EXPERTS[1:])
_STEPS: Final = 800
_BATCH: Final = 512
_RATE: Final = 1e-2
"""Evidence is a small number: slower steps end before it weighs what it says."""
_DECAY: Final = 0.05
_SHRINK: Final = 30.0
"""Decay of what the signals weigh: a thousand patients with a diagnosis are few for so many."""
_AVERAGE: Final = 0.99
_HIDE: Final = 0.2
"""Of the rows the unit, and apart from it the problem codes."""
_DROP: Final = 0.1
_ORPHANET: Final = 0.04
"""Of the rows, given an Orphanet code: no set has them, and the gate is to use them."""
_SOURCES: Final = {"eicu-demo": 0.8, "physionet2012": 0.14, "physionet2019": 0.06}
"""What part of a batch comes from which set; a stay of a set counts as much as any other."""
_PRIOR: Final = (0.08, 0.5)
"""Of oncology and cardiology where a set does not say, enough for a twentieth of the load."""
_SURE: Final = 0.9
"""How far a cardiac unit's name is believed."""
_UNKNOWN: Final = 0.2
"""Weight of a row whose specialty is unknown: enough to keep it at the prior."""
_RISEN: Final = 2.0
"""Weight of an oncologic patient: so few would leave the expert less than its part of the load."""
_QUIET: Final = -2.4
"""Log-odds of the rare-disease route where nothing is novel: its twentieth of the load."""


def teach(network: Network, table: Table, seed: int) -> None:
    """Fit the network's gate to the rows' specialties and keep it from further training.

    Args:
        network: Its features and novelty have their typical values already.
        table: Rows of the training part only.
        seed: Of the order of rows and of what is hidden.
    """
    pools = [
        (share, _Pool(network, table, table.source == SETS.index(name)))
        for name, share in _SOURCES.items()
        if (table.source == SETS.index(name)).any()
    ]
    steps = steps_of(len(table.stay))
    gate = network.gate
    rng = np.random.default_rng((seed, 1))
    total = sum(share for share, _ in pools)
    decayed = [gate.first.weight, gate.second.weight]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": _DECAY},
            {"params": [gate.first.bias, gate.second.bias], "weight_decay": 0.0},
        ],
        _RATE,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    average = copy.deepcopy(gate.state_dict())
    for step in range(steps):
        loss = torch.zeros(())
        for share, pool in pools:
            loss = loss + share / total * pool.loss(network, round(_BATCH * share / total), rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            gate.first.weight[:, :-F] *= 1.0 - schedule.get_last_lr()[0] * _SHRINK
        schedule.step()
        keep = min(_AVERAGE, step / (step + 1.0))
        for name, value in gate.state_dict().items():
            average[name] += (value - average[name]) * (1.0 - keep)
    gate.load_state_dict(average)
    gate.zero_grad()
    gate.requires_grad_(False)


def steps_of(rows: int) -> int:
    """How many steps so many rows are worth."""
    return min(_STEPS, 20 + rows // 50)


class _Pool:
    """Rows of one set that the gate learns from."""

    def __init__(self, network: Network, table: Table, rows: NDArray[np.bool_]) -> None:
        at = np.nonzero(rows)[0]
        # float16 as cached: the rows of all sets at once are many.
        self.signals = table.signals
        self.at = at
        self.case = table.case
        self.absent = network.absent_D[list(SLOW)]
        expert, source = told(table, at)
        self.want, self.weight = wanted(expert, charted(source))
        # A long stay is one patient, too.
        _, which, count = np.unique(table.stay[at], return_inverse=True, return_counts=True)
        self.order = np.cumsum(1.0 / count[which])

    def loss(self, network: Network, size: int, rng: np.random.Generator) -> Tensor:
        """Of rows drawn at random, some of them with less known than there is."""
        drawn = np.searchsorted(self.order, rng.random(size) * self.order[-1])
        drawn = np.minimum(drawn, len(self.order) - 1)
        at = self.at[drawn]
        signals, case = (
            torch.from_numpy(x[at].astype(np.float32)) for x in (self.signals, self.case)
        )
        hide = torch.from_numpy(rng.random((size, 2)) < _HIDE)
        for columns, hidden in ((_UNITS, hide[:, 0]), (_PROBLEMS, hide[:, 1])):
            case[hidden.nonzero(), torch.tensor(columns)] = 0.0
        case[hide[:, 0], UNIT_MISSING] = 1.0
        orphan = torch.from_numpy(rng.random(size) < _ORPHANET)
        case[orphan, _AT["problems"]] = 1.0
        case[orphan, _AT["rare"]] = 1.0
        with torch.no_grad():
            _, strange = network.novelty(signals)
        slow = signals[:, :, list(SLOW)]
        lost = torch.from_numpy(rng.random(slow.shape[:2]) < _DROP).unsqueeze(2)
        slow = torch.where(lost, self.absent, slow).reshape(size, -1)
        logits = network.gate(torch.cat([slow, case], 1), strange)
        return losses(logits, strange, self.want[drawn], self.weight[drawn], orphan).mean()


def told(table: Table, at: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """What is told of some rows: specialty and set, as in `Table`, int64[n] each."""
    expert, source = (
        torch.from_numpy(x[at].astype(np.int64)) for x in (table.expert, table.source)
    )
    return expert, source


def charted(source: Tensor) -> Tensor:
    """Whether rows of a set, `Table.source` [n], have charted diagnoses; units say only who is
    cardiologic.
    """
    return source == SETS.index("eicu-demo")


def wanted(expert: Tensor, charts: Tensor) -> tuple[Tensor, Tensor]:
    """What oncology and cardiology should be, float32[n, 2], and how much each counts.

    Args:
        expert: As in `Table.expert`, [n], -1 where unknown.
        charts: Whether diagnoses say so, [n], see `charted`.
    """
    known = expert >= 0
    # Units say nothing of tumours.
    sure = known & charts
    tumour, failing = (expert & 1) > 0, (expert & 2) > 0
    cancer = torch.where(sure, tumour.float(), _PRIOR[0])
    heart = torch.where(failing, _SURE, 1.0 - _SURE)
    heart = torch.where(sure, failing.float(), torch.where(known, heart, _PRIOR[1]))
    raised = torch.where(tumour, _RISEN, 1.0)
    weight = [torch.where(sure, raised, _UNKNOWN), torch.where(known, 1.0, _UNKNOWN)]
    return torch.stack([cancer, heart], 1), torch.stack(weight, 1)


def losses(
    logits: Tensor, strange: Tensor, want: Tensor, weight: Tensor, orphan: Tensor | None = None
) -> Tensor:
    """Loss of each row, [n], by its gate logits [n, N]; rows with an Orphanet code belong to the
    rare route, and others as far as their values are strange [n].
    """
    odds = torch.stack([_against(logits, i) for i in (_ONCOLOGY, _CARDIOLOGY)], 1)
    each = binary_cross_entropy_with_logits(odds, want, reduction="none")
    rare = torch.sigmoid(_QUIET + STEEP * strange)
    if orphan is not None:
        rare = rare.masked_fill(orphan, 0.9)
    route = binary_cross_entropy_with_logits(_against(logits, _RARE), rare, reduction="none")
    return (each * weight).sum(1) + route


def _against(logits: Tensor, expert: int) -> Tensor:
    """Log-odds of an expert's part against all the others', [n]."""
    others = [i for i in range(len(EXPERTS)) if i != expert]
    return logits[:, expert] - torch.logsumexp(logits[:, others], 1)
