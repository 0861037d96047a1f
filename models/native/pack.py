"""A model and a batch in the form of the engine's structures (`engine.hpp`)."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import derived
from models.calibration import BINS, WIDEN
from models.checkpoint import Calibrated
from models.explain import DRIVERS
from models.features import ABSENT, AGE_MS, HALF_LIVES, SLOW, VITAL_AT, D, E, F, V
from models.moe import ALWAYS, EXPERTS, STEEP
from models.native.forest import BRANCH, Forest
from models.network import RISKS
from models.signals import COUNT
from models.subgroups import HATS, G
from models.trees import GRAIN, KINDS, STEP, SURE
from models.window_store import Windows

PAD: Final = 16
N, R = len(EXPERTS), len(RISKS)
_int, _long, _float, _double = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double
_pointer = ctypes.c_void_p


class Model(ctypes.Structure):
    """`vitalstream::Model`."""

    _fields_ = (
        *((name, _int) for name in ("signals", "vitals", "cases", "risks")),
        *((name, _pointer) for name in ("typical", "centre", "spread", "skewed", "vital_at")),
        ("decay", _float * len(HALF_LIVES)),
        ("age_ms", _float),
        ("absent", _float * D),
        *((name, _int) for name in ("width", "gate_at", "gate_width")),
        *((name, _pointer) for name in ("base", "of_signals", "of_minutes", "of_case")),
        *((name, _pointer) for name in ("gate", "gate_bias")),
        *((name, _float) for name in ("always", "steep")),
        *((name, _int * N) for name in ("hidden_at", "hidden_of", "inner_at", "inner_of")),
        ("inner", _int),
        ("body", _pointer * N),
        *((name, _pointer) for name in ("body_bias", "heads", "heads_bias")),
        ("knots", _int),
        *((name, _pointer) for name in ("knot", "pattern_knot", "level")),
        ("pattern", _int),
        *((name, _pointer) for name in ("pattern_centre", "pattern_whiten")),
        *((name, _int) for name in ("trees", "leaves")),
        ("trees_at", _int * (len(KINDS) * (R + 1) + 1)),
        *((name, _pointer) for name in ("branch", "branch_at", "leaf")),
        *((name, _double) for name in ("leaf_step", "sure", "grain")),
        ("columns", _int),
        *((name, _pointer) for name in ("column_feature", "cut", "cut_at", "column_absent")),
        *((name, _pointer) for name in ("signal_at", "signal_column")),
        ("sum_columns", _int),
        ("sum_column", _pointer),
        *((name, _int) for name in ("flat", "groups", "terms")),
        *((name, _pointer) for name in ("group", "term_kind", "term_of", "term_limit")),
        ("term_step", _float),
        ("bins", _int),
        ("widen", _double),
        *((f"blend_{name}", _pointer) for name in ("network", "trees")),
        *((name, _pointer) for name in ("slope", "intercept", "threshold", "limit")),
        *((name, _pointer) for name in ("curve_from", "curve_by", "bound_knot", "bound_width")),
        ("subgroups", _int),
        *((f"hat_{name}", _pointer) for name in ("column", "left", "top", "right")),
        *((name, _pointer) for name in ("tilt", "shift")),
        ("drivers", _int),
    )


class Batch(ctypes.Structure):
    """`vitalstream::Batch`."""

    _fields_ = (
        *((name, _int) for name in ("size", "bins", "minute_bins")),
        *((n, _pointer) for n in ("hours", "minutes", "newest", "age_ms", "length", "cases")),
    )

    @classmethod
    def of(cls, windows: Windows, case: NDArray[np.float32]) -> tuple[Batch, list[NDArray[Any]]]:
        """The structure and what must live as long as it."""
        kept: list[NDArray[Any]] = [
            np.ascontiguousarray(windows.hours, np.float32),
            np.ascontiguousarray(windows.minutes, np.float32),
            np.ascontiguousarray(windows.newest_value, np.float32),
            np.ascontiguousarray(windows.newest_age_ms, np.int64),
            np.ascontiguousarray(windows.length, np.int32),
            np.ascontiguousarray(case, np.float32),
        ]
        size, bins = kept[0].shape[:2]
        if kept[0].shape != (size, bins, COUNT) or kept[5].shape != (size, F):
            raise ValueError(f"windows of {kept[0].shape} and cases of {kept[5].shape}")
        at = [array.ctypes.data for array in kept]
        return cls(size, bins, kept[1].shape[1], *at), kept


class Answer(ctypes.Structure):
    """`vitalstream::Answer`."""

    _fields_ = tuple(
        (name, _pointer)
        for name in (
            *("p", "low", "high", "positive", "share", "novelty", "driver", "effect", "log_odds"),
        )
    )


def _padded(count: int) -> int:
    return -(-count // PAD) * PAD


class Packed:
    """A model's tensors, laid out for the engine; columns are padded with zeros."""

    def __init__(self, model: Calibrated) -> None:
        self._kept: list[NDArray[Any]] = []
        self.struct = Model()
        with torch.no_grad():
            self._features(model)
            self._network(model)
            self._trees(model)
            self._calibration(model)

    def _keep(self, x: Tensor | NDArray[Any], kind: Any) -> int:
        """A copy that lives as long as this, on a cache line's border; its address."""
        if isinstance(x, Tensor):
            x = x.detach().cpu().numpy()
        room = np.zeros(x.size * np.dtype(kind).itemsize + 64, np.uint8)
        skip = -room.ctypes.data % 64
        copy = room[skip : skip + x.size * np.dtype(kind).itemsize].view(kind)
        copy[:] = x.reshape(-1)
        self._kept.append(room)
        return int(copy.ctypes.data)

    def _features(self, model: Calibrated) -> None:
        of, to = model.network.features, self.struct
        to.signals, to.vitals, to.cases, to.risks = COUNT, V, F, R
        to.typical = self._keep(of.typical_S, np.float32)
        to.centre = self._keep(of.centre_S, np.float32)
        to.spread = self._keep(of.spread_S, np.float32)
        to.skewed = self._keep(of.skewed_S, np.uint8)
        to.vital_at = self._keep(np.array(VITAL_AT), np.int32)
        to.decay[:] = of.decay_K.tolist()
        to.age_ms = AGE_MS
        to.absent[:] = ABSENT

    def _network(self, model: Calibrated) -> None:
        network, to = model.network, self.struct
        experts, gate = network.experts, network.gate
        general, special = experts.general, experts.special
        hidden_of = [general[0], *[special[0]] * (N - 1)]
        inner_of = [general[1], *[special[1]] * (N - 1)]
        hidden_at = np.cumsum([0, *map(_padded, hidden_of)])
        inner_at = np.cumsum([0, *map(_padded, inner_of)])
        gate_of = gate.first.out_features
        width = int(hidden_at[-1]) + _padded(gate_of)
        to.width, to.gate_at, to.gate_width = width, int(hidden_at[-1]), _padded(gate_of)
        to.hidden_at[:], to.inner_at[:] = hidden_at[:-1].tolist(), inner_at[:-1].tolist()
        to.hidden_of[:] = [_padded(count) for count in hidden_of]
        to.inner_of[:] = [_padded(count) for count in inner_of]
        to.inner = inner = int(inner_at[-1])

        def spread(x: Tensor) -> Tensor:
            """Columns of all experts' hidden units at their padded places."""
            wide = x.new_zeros(*x.shape[:-1], width)
            done = 0
            for at, count in zip(hidden_at.tolist(), hidden_of, strict=False):
                wide[..., at : at + count] = x[..., done : done + count]
                done += count
            return wide

        of_signals = spread(network.of_signals)
        of_case = spread(network.of_case)
        base = spread(network.bias)
        slow = gate.first.weight.T
        own = slice(to.gate_at, to.gate_at + gate_of)
        of_signals[:, list(SLOW), own] = slow[: COUNT * len(SLOW)].reshape(COUNT, len(SLOW), -1)
        of_case[:, own] = slow[COUNT * len(SLOW) :]
        base[own] = gate.first.bias
        base = base.double() + torch.einsum(
            "d,sdw->w", network.absent_D.double(), of_signals.double()
        )
        to.base = self._keep(base.float(), np.float32)
        to.of_signals = self._keep(of_signals, np.float32)
        to.of_minutes = self._keep(spread(network.of_minutes), np.float32)
        to.of_case = self._keep(of_case, np.float32)
        second = gate.second.weight.new_zeros(to.gate_width, N)
        second[:gate_of] = gate.second.weight.T
        to.gate = self._keep(second, np.float32)
        to.gate_bias = self._keep(gate.second.bias, np.float32)
        to.always, to.steep = ALWAYS, STEEP

        bodies = [experts.body.weight.T, *experts.bodies]
        biases = [experts.body.bias, *experts.body_bias[:, 0]]
        heads = experts.head.weight.new_zeros(inner, PAD)
        body_bias = heads.new_zeros(inner)
        for i, (body, bias) in enumerate(zip(bodies, biases, strict=True)):
            padded = heads.new_zeros(to.hidden_of[i], to.inner_of[i])
            padded[: body.shape[0], : body.shape[1]] = body
            to.body[i] = self._keep(padded, np.float32)
            at = to.inner_at[i]
            body_bias[at : at + len(bias)] = bias
            # The specialists say what the general expert misses.
            if i == 0:
                heads[: inner_of[0], : N * R] = experts.head.weight.T.repeat(1, N)
            else:
                heads[at : at + inner_of[i], i * R : (i + 1) * R] = experts.heads[i - 1]
        heads_bias = heads.new_zeros(PAD)
        heads_bias[: N * R] = experts.head.bias.repeat(N)
        to.body_bias = self._keep(body_bias, np.float32)
        to.heads = self._keep(heads, np.float32)
        to.heads_bias = self._keep(heads_bias, np.float32)
        novelty = network.novelty
        to.knots, to.pattern = len(novelty.knots), len(novelty.centre)
        to.knot = self._keep(novelty.knots, np.float32)
        to.pattern_knot = self._keep(novelty.pattern_knots, np.float32)
        to.level = self._keep(novelty.levels, np.float32)
        to.pattern_centre = self._keep(novelty.centre, np.float32)
        whiten = novelty.whiten.new_zeros(to.pattern, _padded(to.pattern))
        whiten[:, : to.pattern] = novelty.whiten
        to.pattern_whiten = self._keep(whiten, np.float32)

    def _trees(self, model: Calibrated) -> None:
        of, to = Forest.of(model.trees), self.struct
        to.trees, to.leaves = of.leaf.shape
        voices = np.arange(len(KINDS) * (R + 1) + 1)
        to.trees_at[:] = np.searchsorted(model.trees.risk.numpy(), voices).tolist()
        to.branch = self._keep(of.branch, BRANCH)
        to.branch_at = self._keep(of.branch_at, np.int32)
        to.leaf = self._keep(of.leaf, np.int32)
        to.leaf_step, to.sure, to.grain = STEP, SURE, GRAIN
        to.columns = len(of.feature)
        to.column_feature = self._keep(of.feature, np.int32)
        to.cut = self._keep(of.cut, np.float32)
        to.cut_at = self._keep(of.cut_at, np.int32)
        signal = [np.repeat(np.arange(COUNT), D), np.repeat(VITAL_AT, E), np.full(F, -1)]
        absent = [np.tile(ABSENT, COUNT), np.zeros(V * E), np.zeros(F)]
        whose, gone = (np.concatenate(of_flat) for of_flat in (signal, absent))
        to.column_absent = self._keep(of.bins(gone.astype(np.float32)), np.int8)
        columns = [of.asking(np.flatnonzero(whose == number)) for number in range(COUNT)]
        to.signal_at = self._keep(np.cumsum([0, *map(len, columns)]), np.int32)
        to.signal_column = self._keep(np.concatenate(columns), np.int32)
        sums = of.asking(np.arange(derived.X, derived.Y))
        to.sum_columns, to.sum_column = len(sums), self._keep(sums, np.int32)
        to.flat, to.groups, to.terms = derived.X, len(derived.GROUPS), len(derived.SUMS)
        bits = [sum(1 << i for i in group) for group in derived.GROUPS.values()]
        to.group = self._keep(np.array(bits, np.uint64), np.uint64)
        kinds, of_, limits = zip(*derived.SUMS, strict=True)
        to.term_kind = self._keep(np.array([derived.KINDS.index(k) for k in kinds]), np.int32)
        to.term_of = self._keep(np.array([derived.at(name) for name in of_]), np.int32)
        to.term_limit = self._keep(np.array(limits), np.float32)
        to.term_step = derived.STEP

    def _calibration(self, model: Calibrated) -> None:
        of, to = model.calibration, self.struct
        to.bins, to.widen, to.drivers = BINS, WIDEN, DRIVERS
        to.blend_network = self._keep(of.blend[:, 0], np.float64)
        to.blend_trees = self._keep(of.blend[:, 1], np.float64)
        to.slope = self._keep(of.slope, np.float64)
        to.intercept = self._keep(of.intercept, np.float64)
        to.threshold = self._keep(of.threshold, np.float64)
        to.limit = self._keep(of.limit, np.float64)
        to.curve_from = self._keep(of.plain, np.float64)
        to.curve_by = self._keep(of.knots - of.plain, np.float64)
        to.bound_knot = self._keep(of.knots, np.float64)
        to.bound_width = self._keep(of.width, np.float64)
        to.subgroups = G
        column, left, top, right = (
            np.array(of_hats) for of_hats in zip(*HATS.values(), strict=True)
        )
        to.hat_column = self._keep(column, np.int32)
        to.hat_left, to.hat_top, to.hat_right = (
            self._keep(x, np.float64) for x in (left, top, right)
        )
        to.tilt = self._keep(of.tilt, np.float64)
        to.shift = self._keep(of.shift, np.float64)
