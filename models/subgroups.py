"""Which kinds of patients a case belongs to, and how far: unit type, sex and age.

Every kind is a hat over one feature of the case, so that a patient's risk does not jump on a
birthday: 0 at `left` and below, 1 at `top`, 0 at `right` and above.

Axes: F features of the case, G subgroups.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from models.features import CASE_FEATURES, UNITS

_OPEN: Final = 1e30
"""Where a hat has no end."""
_AGES: Final = (35.0, 55.0, 72.0, 87.0)
"""Years at which an age band's hat is 1: near the mean ages of patients below 45, 65, 80, above."""


def _hats() -> dict[str, tuple[int, float, float, float]]:
    hats = {
        name: (CASE_FEATURES.index(name), 0.0, 1.0, _OPEN) for name in (*UNITS, "female", "male")
    }
    tops = [(years - 62.0) / 17.0 for years in _AGES]
    ends = zip([-_OPEN, *tops[:-1]], tops, [*tops[1:], _OPEN], _AGES, strict=True)
    for left, top, right, years in ends:
        hats[f"age {years:.0f}"] = CASE_FEATURES.index("age"), left, top, right
    return hats


HATS: Final = _hats()
"""By name: column of the case, left, top, right. An unknown age counts as 62 years, as it does for
the network."""
SUBGROUPS: Final = tuple(HATS)
G: Final = len(HATS)


def members(case: Tensor) -> Tensor:
    """How far cases [..., F] belong to the subgroups, float64[..., G] from 0 to 1."""
    columns, left, top, right = zip(*HATS.values(), strict=True)
    x = case[..., list(columns)].double()
    low, peak, high = (x.new_tensor(ends) for ends in (left, top, right))
    return torch.minimum((x - low) / (peak - low), (high - x) / (high - peak)).clamp(0.0, 1.0)
