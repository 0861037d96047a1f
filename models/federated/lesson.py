"""What rows teach: losses as sums, so that the hospitals' shares add up to the pooled loss.

A risk is labelled in some hospitals only. Were each hospital to take the mean of its own labelled
rows, a risk that few label would count little in the mean over hospitals, and the others would pull
the common layers away from it. With the labelled rows of all hospitals counted, each divides by
those instead: the weighted mean of the hospitals' gradients is then the gradient over all rows.

Axes: B rows, R risks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.features import HIDEABLE, UNIT_MISSING, F
from models.network import RISKS, Network, Said
from models.training import gate
from models.training.cache import Table

COUNTS: Final = 2 * len(RISKS) + 3
"""Rows, labelled rows of each risk, events of each, rows whose specialty a diagnosis tells, and
rows whose unit does."""
_GATE: Final = (1.0, 0.2)
"""Weight of the gate's lesson by diagnoses and by units, beside a risk's."""
_RESTRAINT: Final = 1.0
"""Of what the signals weigh in the gate, squared: few patients have a diagnosis for so many."""
_HIDE: Final = 0.4
_DROP: Final = 0.1

Inputs = tuple[Tensor, Tensor, Tensor]


def count(table: Table) -> NDArray[np.int64]:
    """What a site counts before anything is learnt, [COUNTS]."""
    known = (table.labels >= 0).sum(0)
    events = (table.labels == 1).sum(0)
    routed = table.expert >= 0
    told = gate.charted(torch.from_numpy(table.source)).numpy()
    kinds = [(routed & told).sum(), (routed & ~told).sum()]
    return np.array([len(table.stay), *known, *events, *kinds], np.int64)


def balance(counts: Sequence[int]) -> Tensor:
    """Rows over labelled rows of each risk and part of the gate, [R + 2]; 0 where there is none."""
    rows = counts[0]
    labelled = [*counts[1 : len(RISKS) + 1], *counts[-2:]]
    return torch.tensor([rows / n if n else 0.0 for n in labelled])


def rates(counts: Sequence[int]) -> Tensor:
    """How often each risk comes true, [R], within (0.001, 0.5)."""
    known, events = counts[1 : len(RISKS) + 1], counts[len(RISKS) + 1 : -2]
    found = [e / k if k else 0.1 for k, e in zip(known, events, strict=True)]
    return torch.tensor(np.clip(found, 1e-3, 0.5), dtype=torch.float32)


def inputs(table: Table, at: NDArray[np.int64]) -> Inputs:
    """Features of some rows, float32."""
    signals, minutes, case = (
        torch.from_numpy(x[at].astype(np.float32))
        for x in (table.signals, table.minutes, table.case)
    )
    return signals, minutes, case


def disturbed(network: Network, given: Inputs) -> Inputs:
    """Features with some of them hidden, as training sees them; the case is changed in place."""
    signals, minutes, case = given
    hidden = torch.rand(len(case)) < _HIDE
    case[hidden.nonzero(), torch.tensor(HIDEABLE)] = 0.0
    case[hidden, UNIT_MISSING] = 1.0
    lost = (torch.rand(len(case), signals.shape[1]) < _DROP).unsqueeze(2)
    signals = torch.where(lost, network.absent_D, signals)
    minutes = minutes * (torch.rand(len(case), 1, 1) >= _DROP)
    signals, minutes = (x * (torch.rand(x.shape) >= _DROP) for x in (signals, minutes))
    return signals, minutes, case


def sums(said: Said, label: Tensor, expert: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of each risk's loss and of the gate's by diagnoses and by units, and the rows
    behind each, [R + 2].

    Args:
        said: Of the network.
        label: [B, R], -1 where unknown.
        expert: [B] as in `Table.expert`, -1 where unknown.
        source: [B] as in `Table.source`.
    """
    known, routed, told = label >= 0, expert >= 0, gate.charted(source)
    each = binary_cross_entropy_with_logits(said.logits, label.clamp(0), reduction="none")
    kinds = torch.stack([routed & told, routed & ~told], 1)
    way = gate.losses(said.gate, said.strange.detach(), *gate.wanted(expert, told))
    ways = way.unsqueeze(1) * kinds * torch.tensor(_GATE)
    return torch.cat([(each * known).sum(0), ways.sum(0)]), torch.cat([known.sum(0), kinds.sum(0)])


def restraint(network: Network) -> Tensor:
    """What holds the gate back from the signals in a round of gradients that is not private, once
    for a step and whatever its rows.
    """
    return _RESTRAINT * network.gate.first.weight[:, :-F].square().sum()


def of_rows(
    network: Network, given: Inputs, table: Table, at: NDArray[np.int64], weight: Tensor | None
) -> Tensor:
    """Loss of some rows.

    Args:
        network: What is taught.
        given: Features of the rows.
        table: Of the labels.
        at: Which rows.
        weight: Of each part's sum over the number of rows (`balance`); without one each part is
            the mean of the rows that have a label, as where one hospital trains alone.
    """
    label = torch.from_numpy(table.labels[at].astype(np.float32))
    lost, known = sums(network(*given), label, *gate.told(table, at))
    return (lost / known.clamp(1)).sum() if weight is None else (lost * weight).sum() / len(at)


def loss(
    network: Network, table: Table, at: NDArray[np.int64], weight: Tensor | None = None
) -> Tensor:
    """Loss of some rows of a table with some of their features hidden."""
    return of_rows(network, disturbed(network, inputs(table, at)), table, at, weight)
