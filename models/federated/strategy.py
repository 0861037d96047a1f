"""What the server makes of the sites' mean update: FedAvg, FedAdam, FedAdamW with a schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Name = Literal["fedavg", "fedadam", "fedadamw"]
RATES: Final[dict[Name, float]] = {"fedavg": 1.0, "fedadam": 3e-3, "fedadamw": 2e-3}
"""Usual learning rates."""
_WARM: Final = 0.15
_LEAST: Final = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How a model moves by a mean update.

    FedAvg (McMahan et al. 2017, arXiv 1602.05629) moves it by `rate` times the update. FedAdam
    (Reddi et al. 2021, arXiv 2003.00295, algorithm 2) takes the update for a negative gradient.
    FedAdamW does so with the moments' bias corrected, weights that decay (Loshchilov and Hutter
    2019, arXiv 1711.05101) and a rate that rises for 15 % of the rounds and falls to 0 by a cosine.

    Attributes:
        name: Which of them.
        rate: Server's learning rate; 1 for plain FedAvg.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        tau: Adaptivity: added to the root of the second moment.
        decay: Of weights, in a step at rate 1 (FedAdamW).
    """

    name: Name = "fedavg"
    rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in RATES:
            raise ValueError(f"strategy must be one of {', '.join(RATES)}, not {self.name}")
        if not self.rate > 0 or not self.tau > 0 or not self.decay >= 0:
            raise ValueError("rate and tau must be positive, decay not negative")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError("beta1 and beta2 must lie in [0, 1)")

    def start(self, size: int) -> list[Vector]:
        """The moments before the first round; FedAdamW also counts each entry's steps."""
        count = {"fedavg": 0, "fedadam": 2, "fedadamw": 3}[self.name]
        return [np.zeros(size) for _ in range(count)]

    def step(
        self,
        model: NDArray[np.float32],
        update: Vector,
        moments: list[Vector],
        *,
        at: float = 0.0,
        support: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], list[Vector]]:
        """The next model, [size], and moments; what is given stays as it is.

        Args:
            model: As it is.
            update: The mean update, [size], or [entries] of the support.
            moments: Of the rounds before.
            at: Part of the rounds that are done, for the schedule.
            support: Entries that the update is of; all others stay, their moments too.

        Raises:
            ValueError: The update is of another size.
        """
        where = slice(None) if support is None else support
        part, own = model[where], [moment[where] for moment in moments]
        if update.shape != part.shape:
            raise ValueError(f"an update of shape {update.shape} for entries of {part.shape}")
        moved, own = self._moved(part.astype(np.float64), update, own, at)
        following, kept = model.copy(), [moment.copy() for moment in moments]
        following[where] = moved
        for moment, new in zip(kept, own, strict=True):
            moment[where] = new
        return following.astype(np.float32), kept

    def _moved(
        self, model: Vector, update: Vector, moments: list[Vector], at: float
    ) -> tuple[Vector, list[Vector]]:
        if self.name == "fedavg":
            return model + self.rate * update, []
        first = self.beta1 * moments[0] + (1 - self.beta1) * update
        second = self.beta2 * moments[1] + (1 - self.beta2) * update**2
        if self.name == "fedadam":
            return model + self.rate * first / (np.sqrt(second) + self.tau), [first, second]
        steps = moments[2] + 1
        rate = self.rate * schedule(at)
        unbiased = first / (1 - self.beta1**steps), second / (1 - self.beta2**steps)
        moved = model * (1 - rate * self.decay)
        moved += rate * unbiased[0] / (np.sqrt(unbiased[1]) + self.tau)
        return moved, [first, second, steps]


def schedule(at: float) -> float:
    """Part of the learning rate when a part of the rounds is done; of cosines."""
    if at < _WARM:
        return _LEAST + (1 - _LEAST) * (1 - math.cos(math.pi * at / _WARM)) / 2
    return (1 + math.cos(math.pi * min(1.0, (at - _WARM) / (1 - _WARM)))) / 2
