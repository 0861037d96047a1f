"""The network as it is served: few operations, in blocks of one fixed shape.

The same numbers as `Network` and `explain.effects` (a test compares them), made cheaply: the gate's
first layer stands beside the experts' in one matrix, heads of all experts in another, and drivers
are worked out for signals that are there alone. A row and the row without one of its signals are
`variants`; variants of all rows of a block are packed together. Buffers are made once, since fresh
memory costs more than the sums in it.

Axes: B windows, S signals, D features of a signal, H hidden units, N experts, R risks, P variants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from models.checkpoint import Calibrated
from models.features import SLOW, VITAL_AT, D, E, F, V
from models.moe import EXPERTS, STEEP
from models.network import RISKS
from models.signals import COUNT

N, R = len(EXPERTS), len(RISKS)


@dataclass(frozen=True, slots=True)
class Raw:
    """What one block says before calibration.

    Attributes:
        gate: Logits of the experts without what novelty adds, [B, N].
        novelty: [B]; strange that of the values alone.
        row: Of each variant, int64[P]; the first B are the rows as they are.
        signal: What each later variant lacks, int64[P - B].
        logits: Of each variant by expert, [P, N * R].
        trees: What the trees say of each variant, float64[P, R]; None for a model without.
        case: Of the rows as they are, [B, F].
    """

    gate: Tensor
    novelty: Tensor
    strange: Tensor
    row: Tensor
    signal: Tensor
    logits: Tensor
    trees: Tensor | None
    case: Tensor


class Serving:
    """The fused matrices of a model on its device.

    Args:
        model: In evaluation mode, on the device, not trained any more.
        block: Rows of a block.
        pack: Variants whose experts run at once.
    """

    def __init__(self, model: Calibrated, block: int, pack: int) -> None:
        network = model.network
        experts, gate = network.experts, network.gate
        self._block, self._pack = block, pack
        self._width = width = experts.width
        hidden = gate.first.out_features
        weight = network.bias.new_zeros(COUNT * D + V * E + F, width + hidden)
        weight[:, :width] = torch.cat(
            [
                network.of_signals.reshape(-1, width),
                network.of_minutes.reshape(-1, width),
                network.of_case,
            ]
        )
        slow = (torch.arange(COUNT).unsqueeze(1) * D + torch.tensor(SLOW)).reshape(-1)
        at = torch.cat([slow, torch.arange(len(weight) - F, len(weight))])
        weight[at.to(weight.device), width:] = gate.first.weight.T
        self._first = weight
        self._first_bias = torch.cat([network.bias, gate.first.bias])
        self._gate, self._gate_bias = gate.second.weight.T.contiguous(), gate.second.bias
        self._of_signals, self._of_minutes = network.of_signals, network.of_minutes
        self._absent = network.absent_D
        self._novelty = network.novelty
        self._trees = model.trees if len(model.trees.risk) else None
        # Which flat features are a signal's, and what they are where it was never measured.
        mine = weight.new_zeros(COUNT, len(weight), dtype=torch.bool)
        gone = weight.new_zeros(len(weight))
        for signal in range(COUNT):
            mine[signal, signal * D : (signal + 1) * D] = True
            gone[signal * D : (signal + 1) * D] = network.absent_D
        for v, signal in enumerate(VITAL_AT):
            mine[signal, COUNT * D + v * E : COUNT * D + (v + 1) * E] = True
        self._mine, self._gone = mine, gone
        general, special = experts.general, experts.special
        bodies: list[tuple[int, int, Tensor, Tensor]] = [
            (0, 0, experts.body.weight.T.contiguous(), experts.body.bias)
        ]
        for i in range(N - 1):
            bodies.append(
                (
                    general[0] + i * special[0],
                    general[1] + i * special[1],
                    experts.bodies[i].contiguous(),
                    experts.body_bias[i, 0],
                )
            )
        self._bodies = bodies
        inner = general[1] + (N - 1) * special[1]
        heads = weight.new_zeros(inner, N * R)
        heads[: general[1]] = experts.head.weight.T.repeat(1, N)
        for i in range(N - 1):
            rows = slice(bodies[i + 1][1], bodies[i + 1][1] + special[1])
            heads[rows, (i + 1) * R : (i + 2) * R] = experts.heads[i]
        self._heads, self._heads_bias = heads, experts.head.bias.repeat(N)
        self._moved = weight.new_zeros(COUNT, block, width)
        self._active = weight.new_zeros(pack, width)
        self._taken = weight.new_zeros(pack, width)
        self._inner = weight.new_zeros(pack, inner)

    def __call__(self, signals: Tensor, minutes: Tensor, case: Tensor, count: int) -> Raw:
        """One block of features [B, S, D], [B, V, E], [B, F], of which `count` rows are real."""
        block, width = self._block, self._width
        x = torch.cat([signals.reshape(block, -1), minutes.reshape(block, -1), case], 1)
        first = torch.addmm(self._first_bias, x, self._first)
        hidden = first[:, :width]
        gate = torch.addmm(self._gate_bias, silu(first[:, width:].contiguous()), self._gate)
        moved = self._moved
        torch.bmm(
            (signals - self._absent).transpose(0, 1).contiguous(), self._of_signals, out=moved
        )
        vitals = moved[VITAL_AT[0] : VITAL_AT[-1] + 1]
        vitals.baddbmm_(minutes.transpose(0, 1).contiguous(), self._of_minutes)
        lacking, signal = (signals[:count, :, 1] < 0.5).nonzero().T
        row = torch.cat([torch.arange(block, device=lacking.device), lacking])
        logits = self._variants(hidden, moved.reshape(-1, width), row, signal)
        trees = None
        if self._trees is not None:
            lacks = torch.where(self._mine[signal], self._gone, x[row[block:]])
            own, like = self._trees.heard(x)
            trees = torch.cat([own, self._trees(lacks, like[row[block:]])])
        novelty, strange = self._novelty(signals)
        return Raw(gate, novelty, strange, row, signal, logits, trees, case)

    def _variants(self, hidden: Tensor, moved: Tensor, row: Tensor, signal: Tensor) -> Tensor:
        """Logits by expert of the rows as they are and of each without one signal, [P, N * R]."""
        size, pack, count = len(row), self._pack, self._block
        place = signal * count + row[count:]
        logits = hidden.new_empty(size, len(self._heads_bias))
        active, taken, inner = self._active, self._taken, self._inner
        for at in range(0, size, pack):
            keep = min(pack, size - at)
            torch.index_select(hidden, 0, row[at : at + keep], out=active[:keep])
            plain = max(0, min(keep, count - at))
            if keep > plain:
                start = at + plain - count
                some = taken[: keep - plain]
                torch.index_select(moved, 0, place[start : start + keep - plain], out=some)
                active[plain:keep] -= some
            if keep < pack:
                active[keep:] = 0.0
            silu(active, inplace=True)
            for left, right, weight, bias in self._bodies:
                part = active[:, left : left + len(weight)]
                torch.addmm(bias, part, weight, out=inner[:, right : right + len(bias)])
            silu(inner, inplace=True)
            logits[at : at + keep] = torch.addmm(self._heads_bias, inner, self._heads)[:keep]
        return logits


def routed(gate: Tensor, strange: Tensor) -> Tensor:
    """The gate's logits with what strange values add to the rare-disease expert's."""
    return torch.cat([gate[:, :3], gate[:, 3:] + STEEP * strange.unsqueeze(1)], 1)
