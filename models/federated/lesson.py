"""What rows teach: losses as sums, so that the hospitals' shares add up to the pooled loss.

A risk is labelled in some hospitals only. Were each hospital to take the mean of its own labelled
rows, a risk that few label would count little in the mean over hospitals, and the others would pull
the common layers away from it. With the labelled rows of all hospitals counted, each divides by
those instead: the weighted mean of the hospitals' gradients is then the gradient over all rows.

Axes: B rows, R risks, N experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from models.features import HIDEABLE, UNIT_MISSING
from models.network import RISKS, Network, Said
from models.training.cache import Table

COUNTS: Final = 2 * len(RISKS) + 2
"""Rows, labelled rows of each risk, events of each, rows whose specialty is known."""
_GATE: Final = 0.2
_HIDE: Final = 0.4
_DROP: Final = 0.1
_TARGET: Final = (
    (1.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0),
    (0.0, 0.5, 0.5, 0.0),
)
"""The experts a patient of known specialty should be routed to, by `Table.expert`."""

Inputs = tuple[Tensor, Tensor, Tensor]


def count(table: Table) -> NDArray[np.int64]:
    """What a site counts before anything is learnt, [COUNTS]."""
    known = (table.labels >= 0).sum(0)
    events = (table.labels == 1).sum(0)
    routed = int((table.expert >= 0).sum())
    return np.array([len(table.stay), *known, *events, routed], np.int64)


def balance(counts: Sequence[int]) -> Tensor:
    """Rows over labelled rows of each risk and of the gate, [R + 1]; 0 where none is labelled."""
    rows = counts[0]
    labelled = [*counts[1 : len(RISKS) + 1], counts[-1]]
    return torch.tensor([rows / n if n else 0.0 for n in labelled])


def rates(counts: Sequence[int]) -> Tensor:
    """How often each risk comes true, [R], within (0.001, 0.5)."""
    known, events = counts[1 : len(RISKS) + 1], counts[len(RISKS) + 1 : -1]
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


def sums(said: Said, label: Tensor, expert: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of each risk's loss and of the gate's, and the rows behind each, [R + 1].

    Args:
        said: Of the network.
        label: [B, R], -1 where unknown.
        expert: [B] as in `Table.expert`, -1 where unknown.
    """
    known, routed = label >= 0, expert >= 0
    each = binary_cross_entropy_with_logits(said.logits, label.clamp(0), reduction="none")
    # As far as its values are strange a window is for the route of what the others never saw.
    novel = said.strange.detach().unsqueeze(1)
    want = torch.tensor(_TARGET)[expert.clamp(0)] * (1.0 - novel)
    want = want + novel * torch.tensor([0.0, 0.0, 0.0, 1.0])
    gate = -_GATE * (want * log_softmax(said.gate, 1)).sum(1)
    lost = torch.cat([(each * known).sum(0), (gate * routed).sum().unsqueeze(0)])
    return lost, torch.cat([known.sum(0), routed.sum().unsqueeze(0)])


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
    expert = torch.from_numpy(table.expert[at].astype(np.int64))
    lost, known = sums(network(*given), label, expert)
    return (lost / known.clamp(1)).sum() if weight is None else (lost * weight).sum() / len(at)


def loss(
    network: Network, table: Table, at: NDArray[np.int64], weight: Tensor | None = None
) -> Tensor:
    """Loss of some rows of a table with some of their features hidden."""
    return of_rows(network, disturbed(network, inputs(table, at)), table, at, weight)
