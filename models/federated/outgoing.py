"""From what a site has computed to what it sends: weighted, bounded, on the common support.

What the support leaves out stays with the site and is added to its next update (error feedback,
Stich et al. 2018, arXiv 1809.07599); in a private round nothing is carried over, since one round's
noise hides one round's contribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.federated.course import Material
from models.federated.messages import Recipe


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a site computes or sends: numbers, float32, and whole numbers, int64."""

    values: NDArray[np.float32]
    weights: NDArray[np.int64]


class Learner(Protocol):
    """What computes on the hospital's own data."""

    def answer(self, recipe: Recipe, material: Material, number: int) -> Contribution:
        """What the recipe asks for; of an update all entries, [parameters], and its rows.

        Where a stay is the unit of privacy, the sum of stays' updates, each bounded already.
        """


class Outgoing:
    """A site's updates on their way; holds what was left behind."""

    def __init__(self) -> None:
        self._left: NDArray[np.float32] | None = None
        self._coming: NDArray[np.float32] | None = None

    def prepare(
        self, recipe: Recipe, most: int, material: Material, said: Contribution
    ) -> Contribution:
        """What is sent of what was computed. Raises ValueError where it fits no such round.

        Args:
            recipe: Of the round.
            most: The round's largest weight.
            material: Of the round.
            said: What was computed.
        """
        if recipe.kind not in ("average", "gradient"):
            return said
        rows = int(said.weights[0])
        if recipe.noise:
            update, weight = said.values, 1
            if recipe.unit == "hospital":
                update = update * np.float32(
                    min(1.0, recipe.norm / max(float(np.linalg.norm(update)), 1e-30))
                )
        else:
            weight = min(rows, most)
            update = said.values * np.float32(weight / most)
        entries = material.entries
        if entries is None:
            return Contribution(update, np.array([weight], np.int64))
        if recipe.noise:
            return Contribution(update[entries], np.array([weight], np.int64))
        if self._left is not None:
            update = update + self._left
        self._coming = update.copy()
        self._coming[entries] = 0
        return Contribution(update[entries], np.array([weight], np.int64))

    def done(self) -> None:
        """The round has gone through: what was left out is remembered."""
        if self._coming is not None:
            self._left, self._coming = self._coming, None
