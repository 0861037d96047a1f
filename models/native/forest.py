"""Trees in the form of the engine: a threshold is a small number, a tree a list of choices.

A feature's thresholds cut it into bins: the bin of a value is how many of them lie below it, so
that `x <= threshold` and `bin <= rank of the threshold` ask the same. A column holds the bins of
one feature, a byte a row; a feature with more thresholds than a byte can count has several columns.

Axes: T trees, L leaves, C columns padded to whole groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.trees import STEP, Trees

GROUP: Final = 16
"""Columns whose thresholds stand side by side, so that they are counted together."""
CUTS: Final = 255
"""Thresholds of a column."""
PLACES: Final = 256
"""Leaves and inner nodes of a tree: each has a place, which is a byte."""
COLUMNS: Final = 4096
"""As many as the engine has room for (`MAX_COLUMNS`)."""
LOUDEST: Final = 2**31
"""Steps that the trees of a voice may say together: the engine counts them in 32 bits."""
BRANCH: Final = np.dtype(
    [("limit", "i1", 4), ("column", "<u2"), ("below", "u1"), ("above", "u1")], align=True
)
"""`vitalstream::Branch`."""


@dataclass(frozen=True, slots=True)
class Forest:
    """What the engine reads.

    Attributes:
        feature: What each column asks, int32[C]; of padding -1.
        cut: Thresholds [rank, GROUP] of one group of columns after the other, rising, then
            infinite, float32.
        cut_at: First row in `cut` of each group, int32[C / GROUP + 1].
        branch: Inner nodes of one tree after the other, children before their parents.
        branch_at: First one of each tree, int32[T + 1].
        leaf: In steps of 2**-20, int32[T, L], L padded to whole groups.
    """

    feature: NDArray[np.int32]
    cut: NDArray[np.float32]
    cut_at: NDArray[np.int32]
    branch: NDArray[np.void]
    branch_at: NDArray[np.int32]
    leaf: NDArray[np.int32]

    @classmethod
    def of(cls, trees: Trees) -> Forest:
        """The same trees.

        Raises:
            ValueError: They are larger than the engine's numbers, or say what these cannot hold.
        """
        feature, threshold = trees.feature.numpy(), trees.threshold.numpy()
        below, above = trees.left.numpy(), trees.right.numpy()
        leaf = _steps(trees)
        orders = [_upwards(*ends) for ends in zip(below.tolist(), above.tolist(), strict=True)]
        if any(len(order) + leaf.shape[1] > PLACES for order in orders):
            raise ValueError(f"serving engine: a tree has more than {PLACES} leaves and nodes")
        tree = np.repeat(np.arange(len(orders)), [len(order) for order in orders])
        node = np.concatenate([np.zeros(0, np.int64), *orders]).astype(np.int64)
        asked, cuts = feature[tree, node], threshold[tree, node]
        column, limit, columns = _columns(asked, cuts)
        branch = np.zeros(len(node), BRANCH)
        # Bins count from -128: signed bytes are what every machine compares.
        branch["limit"] = (limit - 128)[:, None]
        branch["column"] = column
        # Leaves have the first places, then come the inner nodes in their order.
        place = np.zeros(feature.shape, np.int64)
        at = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(o)) for o in orders)])
        place[tree, node] = at + leaf.shape[1]
        for name, child in (("below", below[tree, node]), ("above", above[tree, node])):
            branch[name] = np.where(child < 0, ~child, place[tree, np.maximum(child, 0)])
        ends = np.cumsum([0, *(len(order) for order in orders)]).astype(np.int32)
        return cls(*columns, branch, ends, leaf)

    def bins(self, x: NDArray[np.float32]) -> NDArray[np.int8]:
        """Bins of one row in every column, counted from -128; 0 for what it does not hold."""
        bins = np.zeros(len(self.feature), np.int8)
        for column in self.asking(np.arange(len(x))).tolist():
            group, lane = divmod(column, GROUP)
            cut = self.cut[self.cut_at[group] : self.cut_at[group + 1], lane]
            bins[column] = (cut < x[self.feature[column]]).sum() - 128
        return bins

    def asking(self, features: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """Columns of these features."""
        return np.flatnonzero(np.isin(self.feature, features))


def _steps(trees: Trees) -> NDArray[np.int32]:
    """Leaves as whole numbers."""
    exact = trees.leaf.numpy().astype(np.float64) / STEP
    loudest = np.abs(exact).max(1, initial=0.0)
    if (exact != np.rint(exact)).any():
        raise ValueError("serving engine: a leaf is not a multiple of 2**-20")
    if (np.bincount(trees.risk.numpy(), loudest) >= LOUDEST).any():
        raise ValueError(f"serving engine: trees of a voice say more than {LOUDEST * STEP:.0f}")
    wide = np.zeros((len(exact), -(-exact.shape[1] // GROUP) * GROUP), np.int32)
    wide[:, : exact.shape[1]] = exact
    return wide


def _upwards(below: list[int], above: list[int]) -> list[int]:
    """Inner nodes that the root reaches, each after its children; the root is the last."""
    order, open_ = [], [0]
    while open_:
        node = open_.pop()
        order.append(node)
        open_ += [child for child in (below[node], above[node]) if child >= 0]
    return order[::-1]


def _columns(
    asked: NDArray[np.int32], cuts: NDArray[np.float32]
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]],
]:
    """Column and rank of each threshold, and the columns: features, cuts and where these begin.

    Columns of many thresholds come first, so that those of a group have as many.
    """
    parts: list[tuple[int, NDArray[np.float32]]] = []
    for feature in np.unique(asked).tolist():
        rising = np.unique(cuts[asked == feature])
        parts += [(feature, rising[i : i + CUTS]) for i in range(0, len(rising), CUTS)]
    parts.sort(key=lambda part: -len(part[1]))
    if len(parts) > COLUMNS:
        raise ValueError(f"serving engine: trees ask {len(parts)} columns, at most {COLUMNS}")
    column, rank = np.zeros(len(asked), np.int64), np.zeros(len(asked), np.int64)
    groups = -(-len(parts) // GROUP)
    features = np.full(groups * GROUP, -1, np.int32)
    beside: list[NDArray[np.float32]] = [np.zeros((0, GROUP), np.float32)]
    for group in range(groups):
        some = parts[group * GROUP : (group + 1) * GROUP]
        beside.append(np.full((len(some[0][1]), GROUP), np.inf, np.float32))
        for lane, (feature, rising) in enumerate(some):
            at = group * GROUP + lane
            features[at] = feature
            beside[-1][: len(rising), lane] = rising
            mine = (asked == feature) & (cuts >= rising[0]) & (cuts <= rising[-1])
            column[mine], rank[mine] = at, np.searchsorted(rising, cuts[mine])
    begin = np.cumsum([0, *(len(rows) for rows in beside[1:])]).astype(np.int32)
    return column, rank, (features, np.concatenate(beside), begin)
