"""What the server makes of the sites' mean update: FedAvg, FedAdam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Name = Literal["fedavg", "fedadam"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How a model moves by a mean update.

    FedAvg (McMahan et al. 2017, arXiv 1602.05629) moves it by `rate` times the update. FedAdam
    (Reddi et al. 2021, arXiv 2003.00295, algorithm 2) takes the update for a negative gradient.

    Attributes:
        name: Which of them.
        rate: Server's learning rate; 1 for plain FedAvg.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        tau: Adaptivity: added to the root of the second moment.
    """

    name: Name = "fedavg"
    rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in ("fedavg", "fedadam"):
            raise ValueError(f"strategy must be fedavg or fedadam, not {self.name}")
        if not self.rate > 0 or not self.tau > 0:
            raise ValueError("rate and tau must be positive")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError("beta1 and beta2 must lie in [0, 1)")

    def start(self, size: int) -> list[Vector]:
        """The moments before the first round."""
        return [np.zeros(size), np.zeros(size)] if self.name == "fedadam" else []

    def step(
        self, model: NDArray[np.float32], update: Vector, moments: list[Vector]
    ) -> tuple[NDArray[np.float32], list[Vector]]:
        """The next model, [size], and moments; what is given stays as it is.

        Raises:
            ValueError: The update is of another size.
        """
        if update.shape != model.shape:
            raise ValueError(f"an update of shape {update.shape} for a model of {model.shape}")
        if self.name == "fedavg":
            return (model + self.rate * update).astype(np.float32), []
        first = self.beta1 * moments[0] + (1 - self.beta1) * update
        second = self.beta2 * moments[1] + (1 - self.beta2) * update**2
        moved = model + self.rate * first / (np.sqrt(second) + self.tau)
        return moved.astype(np.float32), [first, second]
