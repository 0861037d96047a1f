"""From logits to calibrated probabilities with bounds, and the thresholds that are shipped.

What the network and the trees say is blended, by weights of each risk's own. Calibration is
Platt's, slope and intercept on the blended logit, fitted on patients that trained nothing, and then
bent at a few knots to the rate that was observed there: members that learned what an alarm gains
are not straight on the log-odds scale. A knot with few events bends little. Then the curve is
tilted and shifted for the patient's unit type, sex and age, as far as so many patients of a kind
can say.
Bounds are the 90 % band of the calibration curve: patients of the calibration split are resampled,
the observed rate of each bin of the risk is taken each time, and the half-width on the log-odds
scale is kept per bin. A novel window widens it, up to four times at a novelty of 1.

Axes: B windows, R risks, J bins, F features of the case, G subgroups.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.subgroups import G, members

BINS: Final = 12
WIDEN: Final = 3.0
_LEAST: Final = 0.05
_DRAWS: Final = 200
_Z: Final = 1.645
_FEW: Final = 20.0
"""Events at which a knot is bent half as far as they say."""
_TILT: Final = 0.1
"""Standard deviation of subgroups' slopes around the whole's, as is believed before any is seen."""
_SHIFT: Final = 0.2
"""Of their intercepts, log-odds."""
_CHUNK: Final = 65_536


class Calibration(nn.Module):
    """One blend and one calibration for each risk.

    Attributes:
        blend: Weight of the network's logits and of the trees', float64[R, 2].
        slope: Of the blended logit, float64[R]; intercept the same.
        threshold: Alarm at or above this probability, float64[R].
        plain: Platt's log-odds at the knots, ascending, float64[R, J].
        knots: Calibrated log-odds there; `width` the half-width of the bounds there; the same.
        tilt: What a subgroup adds to the curve's slope, float64[R, G]; shift to its intercept.
    """

    blend: Tensor
    slope: Tensor
    intercept: Tensor
    threshold: Tensor
    plain: Tensor
    knots: Tensor
    width: Tensor
    tilt: Tensor
    shift: Tensor

    def __init__(self, risks: int) -> None:
        super().__init__()
        double = torch.float64
        alone = torch.tensor([[1.0, 0.0]], dtype=double)
        self.register_buffer("blend", alone.repeat(risks, 1))
        self.register_buffer("slope", torch.ones(risks, dtype=double))
        self.register_buffer("intercept", torch.zeros(risks, dtype=double))
        self.register_buffer("threshold", torch.full((risks,), 0.5, dtype=double))
        straight = torch.linspace(-6, 6, BINS, dtype=double).repeat(risks, 1)
        self.register_buffer("plain", straight.clone())
        self.register_buffer("knots", straight.clone())
        self.register_buffer("width", torch.ones((risks, BINS), dtype=double))
        self.register_buffer("tilt", torch.zeros((risks, G), dtype=double))
        self.register_buffer("shift", torch.zeros((risks, G), dtype=double))

    def blended(self, logits: Tensor, tree_logits: Tensor | None = None) -> Tensor:
        """Network and trees, float64[…, R]; without trees' logits they count as 0."""
        blended = self.blend[:, 0] * logits.double()
        return blended if tree_logits is None else blended + self.blend[:, 1] * tree_logits

    def log_odds(self, logits: Tensor, tree_logits: Tensor | None, case: Tensor) -> Tensor:
        """Calibrated log-odds, float64[…, R].

        Args:
            logits: Of the network, [..., R].
            tree_logits: Of the trees, float64[..., R]; needed where the model has any.
            case: Features of the case, [..., F].
        """
        plain = self.blended(logits, tree_logits) * self.slope + self.intercept
        bent = plain + _between(plain, self.plain, self.knots - self.plain)
        return _lean(bent, members(case), self.tilt, self.shift)

    def curve(self, risk: int, logit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds of one risk's blended logits before subgroups count, float64[n]."""
        plain = float(self.slope[risk]) * logit + float(self.intercept[risk])
        at, to = self.plain[risk].numpy(), self.knots[risk].numpy()
        bent: NDArray[np.float64] = plain + np.interp(plain, at, to - at)
        return bent

    def lean(
        self, risk: int, bent: NDArray[np.float64], case: NDArray[np.floating[Any]]
    ) -> NDArray[np.float64]:
        """Calibrated log-odds of one risk, float64[n], of what `curve` says of cases [n, F]."""
        mine = slice(risk, risk + 1)
        belongs = members(torch.from_numpy(case))
        leant: NDArray[np.float64]
        leant = _lean(torch.from_numpy(bent)[:, None], belongs, self.tilt[mine], self.shift[mine])[
            :, 0
        ].numpy()
        return leant

    def bounds(self, log_odds: Tensor, novelty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p, low and high, float64[B, R]."""
        half = _between(log_odds, self.knots, self.width)
        half = half * (1.0 + WIDEN * novelty.double()).unsqueeze(1)
        return (
            torch.sigmoid(log_odds),
            torch.sigmoid(log_odds - half),
            torch.sigmoid(log_odds + half),
        )

    @property
    def limit(self) -> Tensor:
        """The thresholds as log-odds, float64[R]."""
        return torch.logit(self.threshold)

    def fit(
        self,
        risk: int,
        logit: NDArray[np.float64],
        label: NDArray[np.bool_],
        patient: NDArray[np.int64],
        seed: int,
    ) -> None:
        """Fit one risk on rows of the calibration split.

        Args:
            risk: Which.
            logit: Of each row, float64[n].
            label: What happened.
            patient: Number of each row's patient: rows of one are resampled together.
            seed: Of the resampling.
        """
        slope, intercept = platt(logit, label)
        self.slope[risk], self.intercept[risk] = slope, intercept
        x = slope * logit + intercept
        edges = np.quantile(x, np.r_[np.linspace(0, 1, BINS + 1)[1:-2], 0.98])
        at = np.searchsorted(edges, x)
        centre = np.array([x[at == j].mean() if (at == j).any() else np.nan for j in range(BINS)])
        if np.isnan(centre).any() or (np.diff(centre) <= 0).any():
            # Too few distinct risks to tell bins apart: straight, and the widest bounds stand.
            return
        self.plain[risk] = torch.from_numpy(centre)
        self.knots[risk] = torch.from_numpy(_bent(x, label, at, centre))
        _, row = np.unique(patient, return_inverse=True)
        people = int(row.max()) + 1
        count = np.bincount(row * BINS + at, minlength=people * BINS).reshape(people, BINS)
        hits = np.bincount(row * BINS + at, label, people * BINS).reshape(people, BINS)
        rng = np.random.default_rng(seed)
        draw = rng.multinomial(people, np.full(people, 1 / people), _DRAWS).astype(np.float64)
        rate = (draw @ hits + 0.5) / (draw @ count + 1.0)
        half = np.maximum(_Z * np.log(rate / (1 - rate)).std(0), _LEAST)
        self.width[risk] = torch.from_numpy(half)

    def fit_subgroups(
        self,
        risk: int,
        bent: NDArray[np.float64],
        label: NDArray[np.bool_],
        patient: NDArray[np.int64],
        case: NDArray[np.floating[Any]],
    ) -> None:
        """Fit tilt and shift of one risk's subgroups, held to 0 by what is believed beforehand.

        Ridge regression (Newton) of what happened on the subgroups, beside the curve. The hours of
        a patient say little more than one of them: a patient counts as one.

        Args:
            risk: Which.
            bent: What `curve` says of each row, float64[n].
            label: What happened.
            patient: Number of each row's patient.
            case: Of each row, [n, F].
        """
        hours = len(bent) / len(np.unique(patient))
        believed = hours * np.repeat([_TILT**-2, _SHIFT**-2], G)
        belongs = members(torch.from_numpy(case)).numpy()
        found = np.zeros(2 * G)
        for _ in range(20):
            gradient, curvature = -believed * found, np.diag(believed)
            for start in range(0, len(bent), _CHUNK):
                some = slice(start, start + _CHUNK)
                x = np.concatenate([belongs[some] * bent[some, None], belongs[some]], 1)
                p = 1 / (1 + np.exp(-np.clip(bent[some] + x @ found, -30, 30)))
                gradient += x.T @ (label[some] - p)
                curvature += x.T @ (x * (p * (1 - p))[:, None])
            step = np.clip(np.linalg.solve(curvature, gradient), -0.2, 0.2)
            found += step
            if np.abs(step).max() < 1e-6:
                break
        self.tilt[risk], self.shift[risk] = torch.from_numpy(found).reshape(2, G)


def _lean(bent: Tensor, belongs: Tensor, tilt: Tensor, shift: Tensor) -> Tensor:
    """Log-odds [..., R] as subgroups [..., G] tilt and shift them, by [R, G]."""
    # One after the other: the same bits in any batch.
    steep, level = torch.ones_like(bent), torch.zeros_like(bent)
    for group in range(G):
        steep = steep + belongs[..., group : group + 1] * tilt[:, group]
        level = level + belongs[..., group : group + 1] * shift[:, group]
    return bent * steep + level


def _between(x: Tensor, knots: Tensor, levels: Tensor) -> Tensor:
    """Levels [R, J] between the knots [R, J] at x [..., R], constant outside."""
    at = (x.unsqueeze(-1) > knots).sum(-1).clamp(1, BINS - 1)
    risk = torch.arange(x.shape[-1], device=x.device)
    left, start = knots[risk, at - 1], levels[risk, at - 1]
    part = ((x - left) / (knots[risk, at] - left)).clamp(0.0, 1.0)
    found: Tensor = start + (levels[risk, at] - start) * part
    return found


def _bent(
    x: NDArray[np.float64],
    label: NDArray[np.bool_],
    at: NDArray[np.int64],
    centre: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Log-odds at the bins' centres [J], bent to the bins' rates and no less ascending.

    Args:
        x: Platt's log-odds, [n].
        label: What happened.
        at: Bin of each row.
        centre: Mean of x in each bin.
    """
    count = np.bincount(at, minlength=BINS)
    hits = np.bincount(at, label, BINS)
    told = np.bincount(at, 1 / (1 + np.exp(-x)), BINS) / count
    rate = (hits + 0.5) / (count + 1.0)
    rarer = np.minimum(hits, count - hits)
    bend = (np.log(rate / (1 - rate)) - np.log(told / (1 - told))) * rarer / (rarer + _FEW)
    # Ascending: a knot is never below the one before it.
    knots = np.maximum.accumulate(centre + bend) + 1e-6 * np.arange(BINS)
    slope, intercept = platt(x + np.interp(x, centre, knots - centre), label)
    straightened: NDArray[np.float64] = slope * knots + intercept
    return straightened


def platt(logit: NDArray[np.float64], label: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of what happened on the logit (Newton)."""
    x = np.stack([logit, np.ones_like(logit)], 1)
    w = np.array([1.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        step = np.linalg.solve(
            (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2), x.T @ (label - p)
        )
        w += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-9:
            break
    return float(w[0]), float(w[1])
