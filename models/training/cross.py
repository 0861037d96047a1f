"""Cross-validation by patient: every row told of by members that have not seen its patient.

For fold f the trees grow on the other folds, and the network learns there from labels and from
these trees. Blend, calibration and thresholds of fold f come from what was told of the other folds.
The shipped members then learn from all patients, the network from trees that have not seen the stay
they speak of, with the blend, calibration and thresholds of all that was told out of fold.

Axes: n rows, R risks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration
from models.checkpoint import Calibrated
from models.derived import EDITION
from models.features import Features
from models.network import RISKS
from models.training import blend, metrics
from models.training.cache import SETS, Table
from models.training.evaluate import DECISION_HOUR, by_stay, last_rows
from models.training.fit import Fitter, Plan, fit, logits_of
from models.training.forest import SHIPPED, Forester, Members, Recipes, told
from models.training.sample import hours
from models.training.split import PARTS
from models.trees import Trees

Floats = NDArray[np.float64]
TAUGHT: Final = ("sepsis", "mortality")
"""Risks of which trees speak to the network."""
_P12: Final = SETS.index("physionet2012")
_JUDGED: Final = 4000
"""Stays of a set of PhysioNet 2012."""
_EICU: Final = SETS.index("eicu-demo")
_TEST: Final = [str(part) for part in PARTS].index("test")


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of every row out of fold, log-odds, [n, R].

    Attributes:
        network: Of the networks.
        trees: Of the forests, 0 for a risk without; alone what one member of them says.
    """

    network: Floats
    trees: Floats
    alone: Floats


class Crossing:
    """Cross-validation of one table; everything is kept on disk, so that a stopped one goes on.

    Args:
        table: All hours of all stays, without outcomes that must not train.
        features: With their typical values.
        plan: Of the networks.
        work: Folder of what is kept.
        fitted: What fits a network: `fit`, on another device or by a team of ranks.
        threads: Of the trees.
    """

    def __init__(
        self,
        table: Table,
        features: Features,
        plan: Plan,
        work: Path,
        fitted: Fitter = fit,
        threads: int = 1,
    ) -> None:
        self.table, self._features, self._plan, self._work = table, features, plan, work
        self._fit, self._threads = fitted, threads
        self._forester = Forester(table, work, plan.seed, threads)
        self.folds = int(table.fold.max()) + 1
        self._drawn = hours(table, plan.seed)[0]
        rows = f"{len(table.stay)} {table.labels.sum(dtype=np.int64)} {plan}"
        self._mark = hashlib.sha256(f"{EDITION} {rows} {SHIPPED} {TAUGHT}".encode()).hexdigest()[
            :12
        ]

    def _kept(self, name: str, make: Callable[[], Floats]) -> Floats:
        path = self._work / f"{name}-{self._mark}.npy"
        if not path.exists():
            self._work.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, make())
            part.replace(path)
        found: Floats = np.load(path)
        return found

    def forest(self, risk: str, fold: int) -> Floats:
        """What trees that have not seen a fold say of its rows: all members' mean, one's alone."""

        def made() -> Floats:
            apart = self.table.fold == fold
            grown = self._forester.forest(risk, SHIPPED[risk], apart, f"-{fold}")
            return grown.told(self.table, np.nonzero(apart)[0], self._threads)

        return self._kept(f"trees-{risk}-{fold}", made)

    def taught(self, fold: int) -> NDArray[np.float32]:
        """Probabilities of the trees' first member without a fold for the drawn rows outside it.

        float32[m, R], NaN for a risk without a teacher.
        """
        at = self._drawn[self.table.fold[self._drawn] != fold]
        out = np.full((len(at), len(RISKS)), np.nan, np.float32)
        for risk in TAUGHT:
            apart = self.table.fold == fold
            if grown := self._forester.grow(risk, SHIPPED[risk][:1], apart, f"-{fold}"):
                logit = told(grown[:1], self.table, at, self._threads)
                out[:, RISKS.index(risk)] = 1 / (1 + np.exp(-logit))
        return out

    def network(self, fold: int) -> Floats:
        """Logits of a network that has not seen a fold, for its rows, [m, R]."""

        def made() -> Floats:
            rows = self.table.select(self._drawn[self.table.fold[self._drawn] != fold])
            network = self._fit(rows, self._features, self._plan, self._work, self.taught(fold))
            return logits_of(network, self.table.select(self.table.fold == fold))[0]

        return self._kept(f"network-{fold}", made)

    def told(self) -> Told:
        """Everything out of fold."""
        n = len(self.table.stay)
        network, trees, alone = (np.zeros((n, len(RISKS))) for _ in range(3))
        for fold in range(self.folds):
            at = np.nonzero(self.table.fold == fold)[0]
            for risk in SHIPPED:
                trees[at, RISKS.index(risk)], alone[at, RISKS.index(risk)] = self.forest(risk, fold)
            network[at] = self.network(fold)
        return Told(network, trees, alone)

    def shipped(self, said: Told) -> Calibrated:
        """The model of all patients, but for those of eICU's hospitals that measure it."""
        table = self.table
        apart = (table.source == _EICU) & (table.part == _TEST)
        voices: dict[int, Members] = {}
        for risk, recipes in SHIPPED.items():
            grown = self._forester.forest(risk, recipes, apart, "all")
            voices |= grown.voices(RISKS.index(risk))
        boosters = {number: [one for one, _ in members] for number, members in voices.items()}
        shares = {number: [share for _, share in members] for number, members in voices.items()}
        model = Calibrated(trees=Trees.from_lightgbm(boosters, len(RISKS), shares))
        keep = self._drawn[~apart[self._drawn]]
        taught = np.full((len(keep), len(RISKS)), np.nan, np.float32)
        for risk in TAUGHT:
            column = RISKS.index(risk)
            taught[:, column] = 1 / (1 + np.exp(-said.alone[keep, column]))
        model.network = self._fit(
            table.select(keep), self._features, self._plan, self._work, taught
        )
        blend.settle(model.calibration, table, said.network, said.trees, self._plan.seed)
        return model.eval()


def crossed(table: Table, said: Told, seed: int) -> dict[str, NDArray[Any]]:
    """Probabilities and alarms out of fold, calibrated and judged by the other folds' rows.

    Returns:
        `set`, `stay`, `hour`, `fold`, `hospital` (2019's) and `label` of every row; `p` [n, R] of
        the model, `p_trees` of one boosted-tree model, `p_network` of the network alone;
        `positive` [n, R], whether `p` reaches the threshold.
    """
    # Features are not needed any more, and copying them costs more than all else here.
    table = replace(table, signals=table.signals[:, :0], minutes=table.minutes[:, :0])
    nothing = np.zeros_like(said.network)
    members = {
        "p": (said.network, said.trees),
        "p_trees": (nothing, said.alone),
        "p_network": (said.network, nothing),
    }
    out: dict[str, NDArray[Any]] = {
        "set": np.array(SETS)[table.source],
        "stay": table.record,
        "hour": table.hour,
        "fold": table.fold,
        "hospital": table.hospital,
        "label": table.labels,
    }
    for name, (network, trees) in members.items():
        p = np.full(network.shape, np.nan)
        positive = np.zeros(network.shape, np.bool_)
        for fold in range(int(table.fold.max()) + 1):
            mine = table.fold == fold
            rest = table.select(~mine)
            calibration = Calibration(len(RISKS))
            if name == "p_trees":
                calibration.blend[:, 0] = 0.0
            blend.settle(calibration, rest, network[~mine], trees[~mine], seed)
            p[mine] = blend.said(calibration, network[mine], trees[mine], table.case[mine])
            positive[mine] = p[mine] >= calibration.threshold.numpy()
        out[name] = p
        out["positive" + name[1:]] = positive
    return out


def measured(
    table: Table, rows: dict[str, NDArray[Any]], member: str = "", apache: bool = True
) -> dict[str, Any]:
    """The card's figures of what was told out of fold.

    Args:
        table: The rows, with every outcome that is known.
        rows: Of `crossed`.
        member: Whose: the model's, or `_trees`, `_network`.
        apache: Also mortality at 24 h in eICU, whose outcomes trained nothing.
    """
    p, positive = rows["p" + member], rows["positive" + member]
    out: dict[str, Any] = {"stays": len(np.unique(table.stay)), "rows": len(table.stay)}
    for risk, name in enumerate(RISKS):
        known = (table.labels[:, risk] >= 0) & ((table.source != _EICU) | (name != "mortality"))
        if known.any():
            out[name] = metrics.discrimination(p[known, risk], table.labels[known, risk] == 1)
            out[name]["alarm_rate"] = float(positive[known, risk].mean())
    sepsis, mortality = RISKS.index("sepsis"), RISKS.index("mortality")
    utility = {}
    for name, hospitals in (("all", (0, 1)), ("A", (0,)), ("B", (1,))):
        known = (table.labels[:, sepsis] >= 0) & np.isin(table.hospital, hospitals)
        if known.any():
            stays = by_stay(table, known)
            utility[name] = metrics.utility(
                [(table.labels[at, sepsis], positive[at, sepsis]) for at in stays]
            )
    if utility:
        out["sepsis_utility"] = utility
    for name, source, until in (
        ("mortality_48h_physionet2012", _P12, DECISION_HOUR + 1),
        ("mortality_24h_eicu", _EICU, 24),
    ):
        known = (table.labels[:, mortality] >= 0) & (table.source == source) & (table.hour < until)
        if not known.any() or (source == _EICU and not apache):
            continue
        at = last_rows(table, known)
        died = table.labels[at, mortality] == 1
        out[name] = metrics.discrimination(p[at, mortality], died)
        if source == _P12:
            alarm = positive[at, mortality]
            hits = int((alarm & died).sum())
            out[name]["event1"] = min(hits / max(died.sum(), 1), hits / max(alarm.sum(), 1))
            out[name]["event2"] = _event2(p[at, mortality], died)
    return out


def _event2(p: Floats, died: NDArray[np.bool_]) -> float:
    """Event 2 on as many stays as the challenge judged: it grows with their number."""
    rng = np.random.default_rng(0)
    draws = [rng.permutation(len(p))[:_JUDGED] for _ in range(20 if len(p) > _JUDGED else 1)]
    return float(np.mean([metrics.event2(p[at], died[at]) for at in draws]))


def transfer(table: Table, recipes: Recipes, work: Path, seed: int) -> dict[str, float]:
    """Sepsis utility of trees where a hospital of 2019 was never seen, threshold of the other's; a
    hospital that was never seen has no trees of its own.

    The threshold is chosen in cross-validation within the hospital that trained.
    """
    out: dict[str, float] = {}
    forester = Forester(table, work, seed)
    column = RISKS.index("sepsis")
    known = table.labels[:, column] >= 0
    gain = metrics.gains(table.labels[:, column], table.hour, table.stay)
    for number, name in ((0, "A to B"), (1, "B to A")):
        here = known & (table.hospital == number)
        there = np.nonzero(known & (table.hospital == 1 - number))[0]
        held = here & (table.fold == 0)
        chooser = forester.grow("sepsis", recipes, ~here | held, f"hospital {number} -0")
        limit = metrics.best_threshold(told(chooser, table, np.nonzero(held)[0]), gain[held])
        grown = forester.grow("sepsis", recipes, ~here, f"hospital {number}")
        alarm = told(grown, table, there) >= limit
        stays = np.split(np.arange(len(there)), np.nonzero(np.diff(table.stay[there]))[0] + 1)
        out[name] = metrics.utility([(table.labels[there[r], column], alarm[r]) for r in stays])
    return out
