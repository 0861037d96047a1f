"""Boosted trees as tensors: a member of the shipped model beside the network.

Grown by LightGBM (`Trees.from_lightgbm`), held as buffers so that the checkpoint, its digest and
every engine see them as they see any weight. A node asks one of the flat features of the network
(`models.network.flat`) or a sum of theirs (`models.derived`): left where x <= threshold. Leaf
values are multiples of 2**-20, so that sums in double precision are exact: in whatever order and
batch they are added, the bits are the same.

Hospitals differ in what they measure and in who falls ill, and trees of both learn less of the one
with fewer events. So a risk has voices: trees of all patients, and trees of either hospital alone,
which count as far as a row is like that hospital's. Trees of their own tell how like: a voice, too.

Axes: T trees, I inner nodes, L leaves, X flat features, Y all that is asked, B rows, S signals,
R risks, W voices, K kinds of voices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.derived import asked

STEP: Final = 2.0**-20
"""Leaf values are multiples of it, below 16 in size: float32 holds them exactly."""
_ROWS: Final = 512
"""Rows that walk at once: their nodes stay in the cache."""
KINDS: Final = ("all", "first", "second")
"""Whom trees speak for: all patients, or those like the first or the second hospital's."""
SURE: Final = 4.0
"""Log-odds from which on a row is wholly like one hospital's."""
GRAIN: Final = 2.0**-10
"""Likeness is a multiple of it: what it multiplies stays exact."""


def voice(risk: int, kind: str, risks: int) -> int:
    """The number of a voice of a risk, of K * (R + 1)."""
    return KINDS.index(kind) * (risks + 1) + risk


def which_voice(risks: int) -> int:
    """The number of the voice that tells the hospitals apart: log-odds of the second one."""
    return risks


def likeness(said: NDArray[np.float64]) -> NDArray[np.float64]:
    """How like the second hospital's rows are, 0 to 1, by the log-odds of `which_voice`."""
    like: NDArray[np.float64] = _likeness(torch.from_numpy(said)).numpy()
    return like


def _likeness(said: Tensor) -> Tensor:
    # Only what IEEE 754 rounds correctly: an engine's bits are the same.
    return torch.round((0.5 + said / (2 * SURE)).clamp(0.0, 1.0) / GRAIN) * GRAIN


class NotTheTrees(ValueError):
    """Trees that these tensors cannot hold, or that would say something else."""


class Trees(nn.Module):
    """Boosted trees of any of the risks, sorted by voice.

    Attributes:
        feature: What a node asks, of Y, int32[T, I].
        threshold: Left where the feature is not above, float32[T, I].
        left: Next node, or ~leaf where negative, int32[T, I]; right the same.
        leaf: Log-odds, float32[T, L].
        risk: The voice of each tree, ascending, int64[T]; of all patients it is the risk's number.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    leaf: Tensor
    risk: Tensor

    def __init__(self, risks: int, trees: int = 0, nodes: int = 1, leaves: int = 1) -> None:
        super().__init__()
        self.risks = risks
        shape = (trees, nodes)
        self.register_buffer("feature", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(shape))
        self.register_buffer("left", torch.full(shape, -1, dtype=torch.int32))
        self.register_buffer("right", torch.full(shape, -1, dtype=torch.int32))
        self.register_buffer("leaf", torch.zeros(trees, leaves))
        self.register_buffer("risk", torch.zeros(trees, dtype=torch.int64))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Trees, inner nodes and leaves: what `__init__` needs to hold the same."""
        return len(self.risk), self.feature.shape[1], self.leaf.shape[1]

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Log-odds of flat features float32[B, X], float64[B, R]; 0 for a risk without trees.

        Args:
            x: Of the rows.
            like: `like` of the rows as they are, float64[B], where a signal was taken out of these.
        """
        return self.heard(x, like)[0]

    def heard(self, x: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward`, and how like the second hospital's the rows are, float64[B]."""
        out = x.new_zeros(len(x), self.risks, dtype=torch.float64)
        told = x.new_full((len(x),), 0.5, dtype=torch.float64) if like is None else like
        if not len(self.risk):
            return out, told
        voices = len(KINDS) * (self.risks + 1)
        one = nn.functional.one_hot(self.risk, voices).double()
        for start in range(0, len(x), _ROWS):
            some = slice(start, start + _ROWS)
            said = self.leaves(asked(x[some])).double() @ one
            if like is None:
                told[some] = _likeness(said[:, which_voice(self.risks)])
            each = said.reshape(-1, len(KINDS), self.risks + 1)[:, :, : self.risks]
            second = told[some].unsqueeze(1)
            out[some] = each[:, 0] + ((1.0 - second) * each[:, 1] + second * each[:, 2])
        return out, told

    def leaves(self, x: Tensor) -> Tensor:
        """What each tree says of each row of what is asked, [B, Y], float32[B, T]."""
        trees, nodes, leaves = self.shape
        first = torch.arange(trees, device=x.device) * nodes
        feature, threshold = self.feature.long().reshape(-1), self.threshold.reshape(-1)
        left, right = self.left.long().reshape(-1), self.right.long().reshape(-1)
        node = torch.zeros(len(x), trees, dtype=torch.int64, device=x.device)
        # A step down ends at a leaf or at a later level, so this ends.
        while bool((node >= 0).any()):
            at = first + node.clamp(min=0)
            below = torch.where(x.gather(1, feature[at]) <= threshold[at], left[at], right[at])
            node = torch.where(node >= 0, below, node)
        return self.leaf.reshape(-1)[torch.arange(trees, device=x.device) * leaves + ~node]

    @classmethod
    def from_lightgbm(
        cls,
        boosters: Mapping[int, Sequence[Any]],
        risks: int,
        shares: Mapping[int, Sequence[float]] | None = None,
    ) -> Trees:
        """The raw scores of each voice's boosters by their shares.

        Args:
            boosters: `lightgbm.Booster`s by voice, grown on `models.derived.asked`,
                float32 without NaN.
            risks: R.
            shares: What each booster counts; default: as much as the others of its voice.

        Raises:
            NotTheTrees: A booster asks what these tensors cannot: categories, missing values,
                several classes.
        """
        counts = {v: [1.0 / len(some)] * len(some) for v, some in boosters.items()} | dict(
            shares or {}
        )
        grown = [
            (number, share, tree)
            for number in sorted(boosters)
            for booster, share in zip(boosters[number], counts[number], strict=True)
            for tree in _trees_of(booster)
        ]
        nodes = max((len(_inner(tree)) for _, _, tree in grown), default=1)
        leaves = max((int(tree["num_leaves"]) for _, _, tree in grown), default=1)
        made = cls(risks, len(grown), max(nodes, 1), leaves)
        for at, (number, share, tree) in enumerate(grown):
            made.risk[at] = number
            made._fill(at, tree, share)
        return made

    def _fill(self, number: int, tree: dict[str, Any], share: float) -> None:
        feature, threshold = self.feature[number], self.threshold[number]
        for at, node in _inner(tree).items():
            if node["decision_type"] != "<=" or node["missing_type"] != "None":
                raise NotTheTrees(
                    f"tree {number}: asks {node['decision_type']!r} of categories "
                    f"or of missing values ({node['missing_type']})"
                )
            feature[at] = node["split_feature"]
            threshold[at] = float(_not_above(node["threshold"]))
            for side, name in ((self.left, "left_child"), (self.right, "right_child")):
                child = node[name]
                inner = "split_index" in child
                side[number, at] = child["split_index"] if inner else ~child["leaf_index"]
        for at, value in _ends(tree).items():
            exact = round(value * share / STEP) * STEP
            self.leaf[number, at] = exact
            if float(self.leaf[number, at]) != exact:
                raise NotTheTrees(f"tree {number}: a leaf of {value} is too large to be exact")


def _not_above(threshold: float) -> np.float32:
    """The largest float32 not above: it sends every float32 the same way."""
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))


def _trees_of(booster: Any) -> list[dict[str, Any]]:
    said = booster.dump_model()
    if said["num_tree_per_iteration"] != 1:
        raise NotTheTrees(f"{said['num_tree_per_iteration']} trees an iteration: not one risk")
    trees: list[dict[str, Any]] = said["tree_info"]
    return trees


def _walk(tree: dict[str, Any]) -> list[dict[str, Any]]:
    found, open_ = [], [tree["tree_structure"]]
    while open_:
        node = open_.pop()
        found.append(node)
        if "split_index" in node:
            open_ += [node["left_child"], node["right_child"]]
    return found


def _inner(tree: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {node["split_index"]: node for node in _walk(tree) if "split_index" in node}


def _ends(tree: dict[str, Any]) -> dict[int, float]:
    """Leaf values by number; a tree that never splits is the leaf of both its sides."""
    ends = [node for node in _walk(tree) if "split_index" not in node]
    return {node.get("leaf_index", 0): float(node["leaf_value"]) for node in ends}


def raw_of(boosters: Sequence[Any], x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean raw score of boosters, as LightGBM says it, float64[n]."""
    said = [np.asarray(booster.predict(x, raw_score=True), np.float64) for booster in boosters]
    mean: NDArray[np.float64] = np.mean(said, 0)
    return mean
