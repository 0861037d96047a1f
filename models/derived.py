"""What trees ask beside the network's features: sums over groups of signals.

A linear layer makes these by itself; a tree, which asks one number at a time, cannot. They say how
busy the bedside is and how far a patient is from the usual: who is worried measures more.

Every term of a sum is 0 for a signal that was never measured, and a multiple of 2**-12, so that
sums are exact in any order and a signal's own part can be taken out again: the drivers do so.

Axes: B rows, X flat features, Y all that trees ask, S signals, D features of a signal.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor

from models.features import SIGNAL_FEATURES, VITAL_AT, D, E, F, V
from models.signals import COUNT, INDEX

X: Final = COUNT * D + V * E + F
_AT: Final = {name: i for i, name in enumerate(SIGNAL_FEATURES)}
_BEDSIDE: Final = ("gcs", "acvpu", "on_oxygen", "fio2", "urine_ml", "mech_vent")

GROUPS: Final = {
    "laboratory": tuple(
        i for name, i in INDEX.items() if i not in VITAL_AT and name not in _BEDSIDE
    ),
    "blood_gas": tuple(
        INDEX[n] for n in ("ph", "paco2", "pao2", "sao2", "base_excess", "hco3", "lactate")
    ),
    "vital": tuple(VITAL_AT),
}
"""Signals that are summed over."""
SUMS: Final = (
    ("below", "missing", 0.5),
    *(("below", "age", hours / (hours + 6.0)) for hours in (0.5, 1.5, 3.5, 6.5, 12.5)),
    ("less_than_one", "age", 0.0),
    ("size", "rate_8h", 0.0),
    ("size", "rate_32h", 0.0),
    ("size", "newest", 0.0),
    ("size", "memory_8h", 0.0),
    ("beyond", "newest", 2.0),
)
"""Terms: whether a feature is below or its size beyond a limit, 1 minus it, or its size."""
KINDS: Final = ("below", "beyond", "less_than_one", "size")
STEP: Final = 2.0**-12
Y: Final = X + len(GROUPS) * len(SUMS)
EDITION: Final = hashlib.sha256(f"{GROUPS} {SUMS} {STEP}".encode()).hexdigest()[:12]
"""Names what is asked; trees of one edition cannot be read by another."""


def at(feature: str) -> int:
    """Index of a feature among those of a signal."""
    return _AT[feature]


def asked(x: Tensor) -> Tensor:
    """Everything that trees ask, float32[B, Y], of flat features float32[B, X]."""
    signals = x[:, : COUNT * D].reshape(len(x), COUNT, D)
    terms = torch.stack([_term(signals[:, :, at(f)], kind, limit) for kind, f, limit in SUMS], 1)
    return torch.cat([x, *(terms[:, :, list(group)].sum(2) for group in GROUPS.values())], 1)


def _term(x: Tensor, kind: str, limit: float) -> Tensor:
    if kind == "below":
        return (x < limit).float()
    if kind == "beyond":
        return (x.abs() > limit).float()
    size = 1.0 - x if kind == "less_than_one" else x.abs()
    return (size * (1.0 / STEP) + 0.5).floor() * STEP
