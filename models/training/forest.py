"""Boosted trees of every risk: grown on some folds of the patients, kept on disk by what made them.

A risk's forest has members that differ in their seed, in the hours of a stay they see, in the size
of their trees and, for sepsis, in what they learn: whether an alarm would gain, or the label. The
mean of what they say is better than any. Some grow on either hospital of 2019 alone and count as
far as a patient is like that hospital's, which further trees tell (`models.trees`).

Axes: n rows of a table, m rows that train, Y all that trees ask, R risks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray

from models.derived import EDITION, Y, asked
from models.network import RISKS
from models.training.cache import Table
from models.training.metrics import gains
from models.training.sample import hours
from models.trees import KINDS, likeness, voice, which_voice

LATE_FROM: Final = 36
LATE: Final = 3.0
_CHUNK: Final = 65_536
_BINS: Final = {"max_bin": 63, "verbose": -1, "num_threads": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How some members of a risk's forest grow.

    Attributes:
        trees: Of one member.
        members: How many.
        rate: Of learning.
        leaves: Of a tree at most; each holds at least `least` rows.
        ridge: On the leaves' values.
        features: Share of the features that a tree may ask.
        per_stay: Hours drawn of a stay.
        label: Sepsis: its members learn the label, an hour counting for those that were not drawn,
            and not what an alarm gains.
        hospitals: Each member grows twice, on either hospital alone, and counts as far as a row is
            like that hospital's.
        weight: What a member counts among those of its risk.
    """

    trees: int
    members: int = 1
    rate: float = 0.07
    leaves: int = 31
    least: int = 150
    ridge: float = 10.0
    features: float = 0.2
    per_stay: int = 8
    label: bool = False
    hospitals: bool = False
    weight: float = 1.0

    def parameters(self, seed: int) -> dict[str, Any]:
        """Of LightGBM."""
        return _BINS | {
            "objective": "binary",
            "learning_rate": self.rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.least,
            "lambda_l2": self.ridge,
            "bagging_fraction": 0.6,
            "bagging_freq": 1,
            "feature_fraction": self.features,
            "deterministic": True,
            "force_col_wise": True,
            "seed": seed,
        }


Recipes = tuple[Recipe, ...]
"""Of all members of a risk's forest, which are numbered through."""
SHIPPED: Final[dict[str, Recipes]] = {
    "sepsis": (
        Recipe(trees=320, rate=0.045, per_stay=16),
        # Those of the label find other hours; small trees know less of one hospital's habits.
        Recipe(trees=600, rate=0.03, leaves=8, least=400, per_stay=16, label=True),
        Recipe(trees=400, rate=0.03, leaves=15, least=400, per_stay=16, label=True),
        Recipe(trees=320, rate=0.045, per_stay=16, label=True),
    ),
    "mortality": (Recipe(trees=300, members=3, rate=0.03, leaves=15, least=100, ridge=20.0),),
    "hypotension": (Recipe(trees=60, rate=0.15),),
    "hypoxaemia": (Recipe(trees=60, rate=0.15),),
}


_WHICH: Final = Recipe(trees=60, rate=0.15, leaves=8, features=0.3)
"""Of the trees that tell the hospitals apart."""


def asked_of(table: Table, at: NDArray[Any]) -> NDArray[np.float32]:
    """All that trees ask of some rows, float32[m, Y], see `models.derived`."""
    made = np.empty((len(at), Y), np.float32)
    for start in range(0, len(at), _CHUNK):
        some = at[start : start + _CHUNK]
        m = len(some)
        parts = (table.signals[some].reshape(m, -1), table.minutes[some].reshape(m, -1))
        flat = np.concatenate((*parts, table.case[some]), 1, dtype=np.float32)
        made[start : start + m] = asked(torch.from_numpy(flat)).numpy()
    return made


def targets(
    table: Table, risk: str, by_label: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What trees of a risk learn and how much a row counts; 0 where nothing is known.

    Sepsis: whether an alarm in that hour gains utility, weighted by how much it gains or costs, or
    by its label, every hour alike.
    """
    label = table.labels[:, RISKS.index(risk)]
    if risk == "mortality":
        # Who dies shows late: those hours teach most.
        weight = np.where(table.hour >= LATE_FROM, LATE, 1.0)
        return (label == 1).astype(np.float64), weight * (label >= 0)
    if risk != "sepsis" or by_label:
        return (label == 1).astype(np.float64), (label >= 0).astype(np.float64)
    gain = gains(label, table.hour, table.stay)
    return (gain > 0).astype(np.float64), np.abs(gain)


Members = list[tuple[lightgbm.Booster, float]]
"""Boosters and what each counts."""


@dataclass(slots=True)
class Grown:
    """The forest of a risk.

    Attributes:
        all: Members that all patients grew.
        first: Those that one hospital grew; second those of the other, as many.
        which: Tells how like the second hospital's a row is, where there are such.
    """

    all: Members = field(default_factory=list)
    first: Members = field(default_factory=list)
    second: Members = field(default_factory=list)
    which: lightgbm.Booster | None = None

    def told(self, table: Table, at: NDArray[np.int64], threads: int = 1) -> NDArray[np.float64]:
        """Log-odds of all members and of the first one alone for some rows, float64[2, m]."""
        out = np.zeros((2, len(at)))
        total = self._total()
        for start in range(0, len(at), _CHUNK):
            x, here = asked_of(table, at[start : start + _CHUNK]), out[:, start : start + _CHUNK]
            for number, (booster, weight) in enumerate(self.all):
                said = _said(booster, x, threads)
                here[0] += weight / total * said
                if not number:
                    here[1] = said
            if self.which is None:
                continue
            like = likeness(_said(self.which, x, threads))
            for members, counts in ((self.first, 1.0 - like), (self.second, like)):
                for booster, weight in members:
                    here[0] += weight / total * counts * _said(booster, x, threads)
        return out

    def voices(self, risk: int) -> dict[int, Members]:
        """Members by their voice, and what each counts there, see `Trees.from_lightgbm`."""
        total, risks = self._total(), len(RISKS)
        said: dict[int, Members] = {}
        for kind in KINDS:
            members: Members = getattr(self, kind)
            if members:
                shares = [(booster, weight / total) for booster, weight in members]
                said[voice(risk, kind, risks)] = shares
        if self.which is not None:
            said[which_voice(risks)] = [(self.which, 1.0)]
        return said

    def _total(self) -> float:
        return sum(weight for _, weight in self.all + self.first)


def _said(booster: lightgbm.Booster, x: NDArray[np.float32], threads: int) -> NDArray[np.float64]:
    return np.asarray(booster.predict(x, raw_score=True, num_threads=threads), np.float64)


class Forester:
    """Grows trees on a table and remembers them.

    Args:
        table: Rows of all folds, all hours, without labels that must not train.
        work: Folder of what was grown.
        seed: Of everything random.
        threads: That trees grow on; they are the same on any number.
    """

    def __init__(self, table: Table, work: Path, seed: int, threads: int = 1) -> None:
        self.table, self._work, self._seed, self._threads = table, work, seed, threads
        self._held: tuple[tuple[int, int], Any] | None = None
        self._targets = {(risk, False): targets(table, risk) for risk in RISKS}
        self._targets["sepsis", True] = targets(table, "sepsis", by_label=True)
        rows = f"{len(table.stay)} {table.labels.sum(dtype=np.int64)} {table.hour.sum()}"
        self._mark = f"{EDITION} {rows} {seed}"

    def grow(
        self, risk: str, recipes: Recipes, apart: NDArray[np.bool_], name: str
    ) -> list[lightgbm.Booster]:
        """The members that grow on all patients; none where its rows know only one outcome.

        Args:
            risk: Which.
            recipes: How.
            apart: Rows that the trees must not see, bool[n].
            name: Names these rows on disk.
        """
        grown = self.forest(risk, recipes, apart, name, hospitals=False)
        return [booster for booster, _ in grown.all]

    def forest(
        self,
        risk: str,
        recipes: Recipes,
        apart: NDArray[np.bool_],
        name: str,
        *,
        hospitals: bool = True,
    ) -> Grown:
        """All members, with those of either hospital where both have rows; see `grow`."""
        out = Grown()
        members = [one for one in recipes for _ in range(one.members)]
        for member, recipe in enumerate(members):
            if not recipe.hospitals:
                booster = self._member(risk, recipe, apart, name, member)
                if booster is not None:
                    out.all.append((booster, recipe.weight))
                continue
            if not hospitals or (which := self._which(apart, name)) is None:
                continue
            both = []
            for at in (0, 1):
                others = apart | (self.table.hospital != at)
                both.append(self._member(risk, recipe, others, f"{name} hospital {at}", member))
            if both[0] is not None and both[1] is not None:
                out.which = which
                out.first.append((both[0], recipe.weight))
                out.second.append((both[1], recipe.weight))
        return out

    def _member(
        self, risk: str, recipe: Recipe, apart: NDArray[np.bool_], name: str, member: int
    ) -> lightgbm.Booster | None:
        by_label = recipe.label and risk == "sepsis"
        want, weight = self._targets[risk, by_label]
        mark = f"{recipe.per_stay} {risk} {name} {member}" + " label" * by_label
        return self._grown(recipe, self._seed + member, mark, want, weight, apart, by_label)

    def _which(self, apart: NDArray[np.bool_], name: str) -> lightgbm.Booster | None:
        """Log-odds that a row is of the second hospital."""
        hospital = self.table.hospital
        known = (hospital >= 0).astype(np.float64)
        want = (hospital == 1).astype(np.float64)
        mark = f"{_WHICH.per_stay} which hospital {name}"
        return self._grown(_WHICH, self._seed, mark, want, known, apart)

    def _grown(
        self,
        recipe: Recipe,
        seed: int,
        mark: str,
        want: NDArray[np.float64],
        weight: NDArray[np.float64],
        apart: NDArray[np.bool_],
        stand: bool = False,
    ) -> lightgbm.Booster | None:
        """Trees from disk, or grown; None where their rows know only one outcome.

        Args:
            recipe: How.
            seed: Of the hours drawn and of the trees.
            mark: Tells them from others on disk, besides how they grow.
            want: What they learn, 0 or 1, [n].
            weight: What a row counts, 0 where nothing is known, [n].
            apart: Rows that they must not see, [n].
            stand: Whether a drawn hour counts for those that were not drawn.
        """
        parameters = recipe.parameters(seed)
        mark = f"{self._mark} {parameters} {recipe.trees} {mark}"
        path = self._work / f"forest-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.txt"
        if path.exists():
            return lightgbm.Booster(model_file=path)
        rows, stands, data = self._drawn(seed, recipe.per_stay)
        mine = np.nonzero((weight[rows] > 0) & ~apart[rows])[0]
        use = rows[mine]
        if not len(use) or want[use].min() == want[use].max():
            return None
        heavy = weight[use] * (stands[mine] if stand else 1.0)
        # Built first: building takes the labels of the whole.
        some = data.subset(mine.tolist(), parameters).construct()
        some.set_label(want[use])
        some.set_weight(heavy / heavy.mean())
        booster = lightgbm.train(parameters | {"num_threads": self._threads}, some, recipe.trees)
        self._work.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        booster.save_model(part)
        part.replace(path)
        return lightgbm.Booster(model_file=path)

    def _drawn(
        self, seed: int, per_stay: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], lightgbm.Dataset]:
        """Hours drawn by a seed, with their features put into bins; the last ones are kept."""
        rows, stands = hours(self.table, seed, per_stay)
        if self._held is None or self._held[0] != (seed, per_stay):
            self._held = None
            data = lightgbm.Dataset(asked_of(self.table, rows), np.zeros(len(rows)), params=_BINS)
            self._held = ((seed, per_stay), data.construct())
        return rows, stands, self._held[1]


def told(
    boosters: list[lightgbm.Booster], table: Table, at: NDArray[np.int64], threads: int = 1
) -> NDArray[np.float64]:
    """Mean log-odds of the members for some rows, float64[m]; 0 where there are none."""
    out = np.zeros(len(at))
    for start in range(0, len(at), _CHUNK):
        x = asked_of(table, at[start : start + _CHUNK])
        for booster in boosters:
            out[start : start + _CHUNK] += booster.predict(x, raw_score=True, num_threads=threads)
    return out / max(len(boosters), 1)
