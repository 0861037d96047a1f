"""How much privacy a federation spends: accounted by Opacus, in Renyi divergences.

The unit is said with every number: a *hospital* (all that it has; each bounds its whole update) or
a *stay* (each stay's gradient is bounded, stays are drawn at random). Neighbours differ by one unit
more or less. The noise counted on is that of a threshold of sites. A bounded update is rounded to
steps of the fixed point after it was bounded: two neighbours may differ by a step in every entry
more than the bound, and that is counted, too.
"""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from models.federated import files
from models.federated.errors import Lied
from models.federated.messages import Task

DELTA: Final = 1e-5
_ORDERS: Final = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 80, 128, 256, 512)
"""Of the Renyi divergences; the best one is taken."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Rounds of one kind: noise over the most that one unit changes, part drawn, how many."""

    noise: float
    share: float
    rounds: int


def of_task(task: Task) -> Spent:
    """What a round of a task spends of each unit."""
    recipe = task.recipe
    entries = task.size - task.weights
    most = recipe.norm + math.sqrt(entries) * task.numbers.step
    share = recipe.share if recipe.unit == "stay" else 1.0
    return Spent(recipe.noise * recipe.norm / most, share, 1)


def epsilon(spent: list[Spent], delta: float = DELTA) -> float:
    """The epsilon at a delta of all rounds together; infinite where one had no noise."""
    if any(each.noise <= 0 for each in spent):
        return math.inf
    if not spent:
        return 0.0
    rdp = _accountant()
    total = sum(
        rdp.compute_rdp(
            q=each.share, noise_multiplier=each.noise, steps=each.rounds, orders=_ORDERS
        )
        for each in spent
    )
    with warnings.catch_warnings():
        # The accountant warns where the best order is an end of the list: epsilon is then larger
        # than need be, never smaller.
        warnings.simplefilter("ignore", UserWarning)
        found, _ = rdp.get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)
    return float(found)


@cache
def _accountant() -> ModuleType:
    """Opacus' accounting, without the package around it, which takes seconds to import."""
    package = importlib.util.find_spec("opacus")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "accountants" / "analysis" / "rdp.py"
    spec = importlib.util.spec_from_file_location("opacus_rdp", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said(task: Task, rounds: int, delta: float = DELTA) -> dict[str, float | int | str]:
    """What a card says of a federation of such rounds."""
    one = of_task(task)
    return {
        "unit": task.recipe.unit,
        "epsilon": epsilon([Spent(one.noise, one.share, rounds)], delta),
        "delta": delta,
        "noise": one.noise,
        "drawn": one.share,
        "rounds": rounds,
        "accountant": "opacus, Renyi divergences",
        "neighbours": f"one {task.recipe.unit} more or less",
        "trust": f"{task.threshold} of {len(task.clients)} sites add their noise",
    }


class Budget:
    """What one site may spend; what it has spent is on disk before anything leaves.

    Args:
        path: Where it is kept.
        epsilon: Never more than this.
        delta: At this delta.
    """

    def __init__(self, path: Path, most: float, delta: float = DELTA) -> None:
        self._path, self._most, self._delta = path, most, delta
        self._spent = (
            [Spent(**each) for each in json.loads(path.read_text())] if path.exists() else []
        )

    def check(self, task: Task) -> None:
        """Raises Lied for a round that would spend too much, or is not private."""
        if task.recipe.noise <= 0:
            raise Lied("the round is not private, and this hospital takes part in private ones")
        if epsilon(self._with(task), self._delta) > self._most:
            raise Lied(f"the round would spend more than epsilon {self._most}")

    def spend(self, task: Task) -> None:
        """Count a round as spent."""
        self._spent = self._with(task)
        text = json.dumps([asdict(each) for each in self._spent])
        files.replace(self._path, text.encode())

    def _with(self, task: Task) -> list[Spent]:
        one = of_task(task)
        alike = [each for each in self._spent if (each.noise, each.share) == (one.noise, one.share)]
        rest = [each for each in self._spent if each not in alike]
        return [*rest, Spent(one.noise, one.share, 1 + sum(each.rounds for each in alike))]
