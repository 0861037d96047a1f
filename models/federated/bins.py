"""Calibration of counts: sites add up how often what was predicted happened, by bins of the logit.

A first round counts rows and events in fine bins, and stays with an event: of their sums follow
Platt's slope and intercept, and the threshold. A second one counts what the bounds need, in the few
bins of the calibration: of each stay's rows c and events h the sums of h^2, h c and c^2, since rows
of one patient are alike. All are whole numbers, so that their sums are exact.

Axes: R risks, J fine bins, K the calibration's bins.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

BINS: Final = 12
"""Of the calibration; `models.calibration.BINS`, which to import takes PyTorch."""
FINE_BINS: Final = 512
_BOUND: Final = 16.0
_STEP: Final = 2 * _BOUND / FINE_BINS
_LEFT: Final = np.arange(FINE_BINS) * _STEP - _BOUND
"""Lower border of each fine bin, in units of the logit; the outermost bins are open."""
CENTRE: Final = _LEFT + _STEP / 2
_LEAST_STAYS: Final = 30
"""In which a risk must have come true, and rows in which it must not: rows of one patient are
alike, and a slope of nine deaths was off by half.
"""

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def fine(logit: Floats) -> Whole:
    """Fine bin of each logit."""
    return np.clip((logit + _BOUND) / _STEP, 0, FINE_BINS - 1).astype(np.int64)


def size(risks: int) -> int:
    """How many whole numbers `count` gives."""
    return 2 * risks * FINE_BINS + risks


def count(logits: Floats, labels: NDArray[np.int8], stay: NDArray[np.int64]) -> Whole:
    """Rows and events of each risk and fine bin, and stays with an event, [2 R J + R]; labels
    [n, R] are -1 where unknown.
    """
    risks = labels.shape[1]
    found = np.zeros((2, risks, FINE_BINS), np.int64)
    stays = np.zeros(risks, np.int64)
    for risk in range(risks):
        known, came = labels[:, risk] >= 0, labels[:, risk] == 1
        found[0, risk] = np.bincount(fine(logits[known, risk]), minlength=FINE_BINS)
        found[1, risk] = np.bincount(fine(logits[came, risk]), minlength=FINE_BINS)
        stays[risk] = len(np.unique(stay[came]))
    return np.concatenate([found.reshape(-1), stays])


def gained(logit: Floats, gain: Floats) -> NDArray[np.float32]:
    """What an alarm gains in each fine bin of a risk, [J]."""
    return np.bincount(fine(logit), gain, FINE_BINS).astype(np.float32)


def spread(
    logits: Floats,
    labels: NDArray[np.int8],
    stay: NDArray[np.int64],
    edges: tuple[tuple[int, ...], ...],
) -> Whole:
    """Sums over stays of h^2, h c and c^2 in the calibration's bins, [3, K] of each risk, flat."""
    parts = []
    for risk, borders in enumerate(edges):
        bins = len(borders) + 1
        known = labels[:, risk] >= 0
        at = np.searchsorted(borders, fine(logits[known, risk]), side="right")
        _, who = np.unique(stay[known], return_inverse=True)
        people = int(who.max(initial=-1)) + 1
        cell, size = who * bins + at, people * bins
        rows = np.bincount(cell, minlength=size).reshape(people, bins)
        hits = np.bincount(cell[labels[known, risk] == 1], minlength=size).reshape(people, bins)
        parts += [(hits * hits).sum(0), (hits * rows).sum(0), (rows * rows).sum(0)]
    return np.concatenate(parts).astype(np.int64)


class Curves(msgspec.Struct):
    """What was counted, see `count`, and sepsis alarms' gain, float64 [J]."""

    risks: int
    counted: bytes
    gain: bytes

    @classmethod
    def of(cls, gain: Floats, counted: Whole, risks: int) -> Curves:
        """Of the sums of a round."""
        return cls(risks, counted.astype("<i8").tobytes(), gain.astype("<f8").tobytes())

    def rows(self, risk: int) -> tuple[Floats, Floats]:
        """Rows and events by fine bin of a risk."""
        both = np.frombuffer(self.counted, "<i8")[: -self.risks]
        both = both.reshape(2, self.risks, FINE_BINS)
        return both[0, risk].astype(np.float64), both[1, risk].astype(np.float64)

    def platt(self, risk: int) -> tuple[float, float] | None:
        """Slope and intercept of a risk by Newton's method; None where too little happened."""
        rows, hits = self.rows(risk)
        stays = int(np.frombuffer(self.counted, "<i8")[risk - self.risks])
        if stays < _LEAST_STAYS or rows.sum() - hits.sum() < _LEAST_STAYS:
            return None
        x = np.stack([CENTRE, np.ones(FINE_BINS)], 1)
        w = np.array([1.0, 0.0])
        for _ in range(50):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
            hessian = (x * (rows * p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
            step = np.linalg.solve(hessian, x.T @ (hits - rows * p))
            w += np.clip(step, -1.0, 1.0)
            if np.abs(step).max() < 1e-9:
                break
        return (float(w[0]), float(w[1])) if w[0] > 0 else None

    def limit(self, risk: int, *, by_gain: bool) -> float:
        """The logit from which alarms are best: most gain, or event 1 of PhysioNet 2012."""
        if by_gain:
            worth = np.cumsum(np.frombuffer(self.gain, "<f8")[::-1])
        else:
            rows, hits = (np.cumsum(x[::-1]) for x in self.rows(risk))
            worth = np.minimum(hits / max(1.0, hits[-1]), hits / np.maximum(rows, 1.0))
        return float(_LEFT[::-1][int(np.argmax(worth))])

    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Borders of the calibration's bins by risk, as numbers of fine bins."""
        wanted = np.r_[np.linspace(0, 1, BINS + 1)[1:-2], 0.98]
        found = []
        for risk in range(self.risks):
            total = np.cumsum(self.rows(risk)[0])
            at = np.searchsorted(total, wanted * total[-1]) + 1
            found.append(tuple(int(edge) for edge in at))
        return tuple(found)


class Spread(msgspec.Struct):
    """Sums over stays by risk and bin, int64 [3, K] one after the other, and the bins' borders."""

    edges: tuple[tuple[int, ...], ...]
    summed: bytes

    @classmethod
    def of(cls, summed: Whole, edges: tuple[tuple[int, ...], ...]) -> Spread:
        """Of the sums of a round."""
        return cls(edges, summed.astype("<i8").tobytes())

    def of_risk(self, risk: int) -> Floats:
        """Sums of h^2, h c and c^2, [3, K]."""
        sizes = [3 * (len(each) + 1) for each in self.edges]
        start = sum(sizes[:risk])
        found = np.frombuffer(self.summed, "<i8")[start : start + sizes[risk]]
        return found.reshape(3, -1).astype(np.float64)
