"""What a federation does round after round: count, learn, calibrate. No network, no time, no disk.

Each round asks one thing, made of the last ones' sums; a course goes on from its state as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.federated import support
from models.federated.bins import FINE_BINS, Curves, Spread, size
from models.federated.fixed_point import Bits, FixedPoint
from models.federated.messages import Kind, Recipe
from models.federated.server import Result
from models.federated.strategy import Strategy

Model = NDArray[np.float32]


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """What the sites need for a round, the same for all: its hash is in the signed task.

    Attributes:
        model: Parameters, float32 little-endian.
        counts: Sums of what the sites counted; empty where they have not.
        support: A bit for each parameter that an update consists of; empty for all of them.
        edges: Of the calibration's bins, as numbers of fine bins, a list a risk.
    """

    model: bytes
    counts: tuple[int, ...] = ()
    support: bytes = b""
    edges: tuple[tuple[int, ...], ...] = ()

    @property
    def parameters(self) -> Model:
        """The model's parameters."""
        return np.frombuffer(self.model, "<f4").copy()

    @property
    def entries(self) -> NDArray[np.int64] | None:
        """Which parameters an update consists of; None for all."""
        return support.unpack(self.support, len(self.model) // 4) if self.support else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a federation learns.

    Attributes:
        federation: Its name.
        rounds: Rounds of learning that must succeed.
        bits: Bits of an entry on the wire.
        clip: Bound of an entry of an update.
        max_weight: Rows of a site that count, at most.
        threshold: Sites without whom nothing is revealed; 0: two thirds.
        gather_s: Time for the rest once a threshold of sites is there (they train meanwhile).
        phase_s: Time for each of the other phases.
        strategy: What is made of a mean update.
        recipe: What sites do in a round of learning.
        counts: Whole numbers that sites count in a first round; 0: there is none.
        keep: Part of the parameters that an update consists of.
        risks: Risks that are calibrated in the last two rounds; 0: there are none.
    """

    federation: str = "vitalstream"
    rounds: int = 20
    bits: Bits = 31
    clip: float = 1.0
    max_weight: int = 100_000
    threshold: int = 0
    gather_s: float = 600.0
    phase_s: float = 60.0
    strategy: Strategy = field(default_factory=Strategy)
    recipe: Recipe = field(default_factory=Recipe)
    counts: int = 0
    keep: float = 1.0
    risks: int = 0

    def __post_init__(self) -> None:
        self.recipe.check()
        if self.rounds < 1 or not 0 < self.keep <= 1:
            raise ValueError("rounds must be positive and keep lie in (0, 1]")
        if self.recipe.kind not in ("average", "gradient"):
            raise ValueError("a round of learning averages models or gradients")
        if self.recipe.noise and (self.counts or self.risks):
            raise ValueError("a private federation neither counts nor calibrates")

    @property
    def stages(self) -> tuple[Kind, ...]:
        """What each round asks."""
        before: tuple[Kind, ...] = ("count",) if self.counts else ()
        after: tuple[Kind, ...] = ("bins", "spread") if self.risks else ()
        return (*before, *(self.recipe.kind,) * self.rounds, *after)


@dataclass(frozen=True, slots=True)
class Ask:
    """A round to come: what it is made of, and the shape of the answer."""

    recipe: Recipe
    material: Material
    values: int
    weights: int
    clip: float
    max_weight: int
    bits: Bits = 32


class _State(msgspec.Struct):
    done: int
    model: bytes
    moments: list[bytes]
    counts: tuple[int, ...]
    curves: Curves | None
    spread: Spread | None


class Course:
    """A federation's whole progress.

    Args:
        plan: How to learn.
        model: Start, float32 [parameters].
        informed: Makes the start of it and of what was counted.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model,
        informed: Callable[[Model, tuple[int, ...]], Model] | None = None,
    ) -> None:
        self.plan, self._informed = plan, informed
        self.model = model.astype("<f4")
        self.counts: tuple[int, ...] = ()
        self.curves: Curves | None = None
        self.spread: Spread | None = None
        self.done = 0
        self._moments = plan.strategy.start(len(model))

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.done >= len(self.plan.stages)

    def ask(self, number: int, clients: int) -> Ask:
        """What the next round asks of the clients; `number` is the round's."""
        plan, stage = self.plan, self.plan.stages[self.done]
        most = FixedPoint(clients=clients, clip=1.0).most
        material = Material(model=self.model.tobytes(), counts=self.counts)
        if stage == "count":
            return Ask(Recipe(kind=stage), material, 0, plan.counts, 1.0, most)
        if stage == "bins":
            return Ask(Recipe(kind=stage), material, FINE_BINS, size(plan.risks), 1e4, most)
        if stage == "spread":
            assert self.curves is not None
            edges = self.curves.edges()
            material = msgspec.structs.replace(material, edges=edges)
            whole = 3 * sum(len(each) + 1 for each in edges)
            return Ask(Recipe(kind=stage), material, 0, whole, 1.0, most)
        return self.learning(number)

    def learning(self, number: int) -> Ask:
        """What a round of learning asks."""
        plan, material = self.plan, Material(model=self.model.tobytes(), counts=self.counts)
        values, recipe = len(self.model), plan.recipe
        if plan.keep < 1:
            second = self._moments[1] if len(self._moments) > 1 else None
            chosen = support.choose(values, plan.keep, number, second)
            material = msgspec.structs.replace(material, support=support.pack(chosen, values))
            recipe = msgspec.structs.replace(recipe, support=True)
            values = len(chosen)
        heavy = 1 if recipe.noise else max(1, math.ceil(plan.max_weight * recipe.share))
        return Ask(recipe, material, values, 1, plan.clip, heavy, plan.bits)

    def learn(self, ask: Ask, result: Result) -> None:
        """Go on by the sums of a round."""
        kind = ask.recipe.kind
        if kind == "count":
            self.counts = tuple(int(n) for n in result.weights)
            if self._informed is not None:
                self.model = self._informed(self.model, self.counts).astype("<f4")
        elif kind == "bins":
            self.curves = Curves.of(result.total, result.weights, self.plan.risks)
        elif kind == "spread":
            assert self.curves is not None
            self.spread = Spread.of(result.weights, ask.material.edges)
        elif result.weights[0] > 0:
            update = result.total * (ask.max_weight / float(result.weights[0]))
            at = (self.done - bool(self.plan.counts)) / self.plan.rounds
            self.model, self._moments = self.plan.strategy.step(
                self.model, update, self._moments, at=at, support=ask.material.entries
            )
        self.done += 1

    def state(self) -> bytes:
        """Everything, as bytes."""
        return msgspec.msgpack.encode(
            _State(
                self.done,
                self.model.astype("<f4").tobytes(),
                [moment.tobytes() for moment in self._moments],
                self.counts,
                self.curves,
                self.spread,
            )
        )

    def restore(self, data: bytes) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is of a model of another size, of another strategy, or counted otherwise.
        """
        found = msgspec.msgpack.decode(data, type=_State)
        if len(found.model) != 4 * len(self.model):
            raise ValueError("the state is of a model of another size")
        if len(found.moments) != len(self._moments):
            raise ValueError("the state is of another strategy")
        curves = 0 if found.curves is None else len(found.curves.counted)
        expected = (0, 8 * size(self.plan.risks))
        if len(found.counts) not in (0, self.plan.counts) or curves not in expected:
            raise ValueError("the state was counted by another plan or edition")
        self.model = np.frombuffer(found.model, "<f4").copy()
        self._moments = [np.frombuffer(moment, "<f8").copy() for moment in found.moments]
        self.done, self.counts = found.done, found.counts
        self.curves, self.spread = found.curves, found.spread
