"""What the network sees of a window: one function for training and serving.

Only +, -, *, /, minimum, maximum and selection are used, each correctly rounded, so a window's
features have the same bits in whatever batch and padding it stands. Missing is a mask and an age,
never a value.

Axes: B windows, T hour bins, M minute bins, S signals, V vitals, D features of a signal, E features
of a vital's minutes, F features of the case.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.codes import evidence
from models.config import HOUR_MS
from models.layers import decays, memories
from models.signals import COUNT, INDEX, VITALS
from models.window_store import Windows

HALF_LIVES: Final = (2.0, 8.0, 32.0)
"""Of the memories, in hours."""
SIGNAL_FEATURES: Final = (
    "newest",
    "missing",
    "age",
    "memory_2h",
    "memory_8h",
    "memory_32h",
    "rate_8h",
    "rate_32h",
    "minimum",
    "maximum",
)
MINUTE_FEATURES: Final = ("present", "mean", "minimum", "maximum")
D: Final = len(SIGNAL_FEATURES)
E: Final = len(MINUTE_FEATURES)
V: Final = len(VITALS)
VITAL_AT: Final = tuple(INDEX[name] for name in VITALS)
ABSENT: Final = (0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""The features of a signal that was never measured."""
SLOW: Final = (1, 5, 7)
"""Those that move slowly: missing, the longest memory and the longest rate."""

UNITS: Final = ("medical", "surgical", "coronary", "cardiac_surgery", "neuro", "mixed")
CASE_FEATURES: Final = (
    "known",
    "age",
    "age_missing",
    "female",
    "male",
    *UNITS,
    "unit_missing",
    "weight",
    "weight_missing",
    "height",
    "height_missing",
    "hospital_before",
    "hospital_missing",
    "problems",
    "oncology",
    "cardiac",
    "rare",
    "hours",
    "hours_late",
)
F: Final = len(CASE_FEATURES)
STATIC: Final = F - 2
"""Case features that do not change with time; the others are the last."""
_AT: Final = {name: i for i, name in enumerate(CASE_FEATURES)}
HIDEABLE: Final = tuple(_AT[n] for n in (*UNITS, "problems", "oncology", "cardiac", "rare"))
"""What training hides now and then, so that the gate learns from the window too."""
UNIT_MISSING: Final = _AT["unit_missing"]

SKEWED: Final = frozenset(
    {
        *("urine_ml", "pao2", "ast", "alt", "alp", "bun", "creatinine", "bilirubin_direct"),
        *("bilirubin_total", "glucose", "lactate", "troponin_i", "troponin_t", "ptt", "wbc"),
        *("fibrinogen", "platelets", "cholesterol"),
    }
)
"""Long-tailed: x / (x + typical) is used for x."""
_CLIP: Final = 6.0
AGE_MS: Final = 6.0 * HOUR_MS


def of_case(case: Any | None) -> NDArray[np.float32]:
    """What is known on admission (fields of `streaming.messages.Case`), without the time since."""
    x = np.zeros(STATIC, np.float32)
    if case is None:
        for name in ("age", "unit", "weight", "height", "hospital"):
            x[_AT[f"{name}_missing"]] = 1.0
        return x
    x[_AT["known"]] = 1.0
    for name, value, centre, spread in (
        ("age", case.age_years, 62.0, 17.0),
        ("weight", case.weight_kg, 82.0, 24.0),
        ("height", case.height_cm, 169.0, 12.0),
    ):
        if value is None:
            x[_AT[f"{name}_missing"]] = 1.0
        else:
            x[_AT[name]] = min(max((value - centre) / spread, -_CLIP), _CLIP)
    if case.sex is not None:
        x[_AT[case.sex]] = 1.0
    x[_AT["unit_missing" if case.unit_type is None else case.unit_type]] = 1.0
    if case.hospital_admitted_ms is None:
        x[_AT["hospital_missing"]] = 1.0
    else:
        before = max(0.0, (case.admitted_ms - case.hospital_admitted_ms) / HOUR_MS)
        x[_AT["hospital_before"]] = before / (before + 24.0)
    if case.problems:
        x[_AT["problems"]] = 1.0
        x[_AT["oncology"]], x[_AT["cardiac"]], x[_AT["rare"]] = evidence(case.problems)
    return x


class CaseCache:
    """Case features by the case object, which does not change once it is in a window."""

    def __init__(self, limit: int = 65_536) -> None:
        self._limit = limit
        self._of: dict[int, tuple[Any, NDArray[np.float32]]] = {}
        self._none = of_case(None)

    def __call__(self, case: Any | None) -> NDArray[np.float32]:
        """`of_case`, remembered."""
        if case is None:
            return self._none
        found = self._of.get(id(case))
        if found is None or found[0] is not case:
            if len(self._of) >= self._limit:
                self._of.clear()
            found = (case, of_case(case))
            self._of[id(case)] = found
        return found[1]


def of_cases(
    static_BF: NDArray[np.float32], newest_ms: NDArray[np.int64], phase_ms: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Case features with the time since admission, float32[B, F]; unknown cases have none."""
    out = np.zeros((len(static_BF), F), np.float32)
    out[:, :STATIC] = static_BF
    known = static_BF[:, 0] > 0
    hours = np.where(known, np.maximum(newest_ms - phase_ms, 0), 0) / HOUR_MS
    out[:, STATIC] = hours / (hours + 24.0)
    out[:, STATIC + 1] = np.minimum(hours / 240.0, 2.0)
    return out


class Features(nn.Module):
    """Windows to features; its buffers are the training data's typical values.

    Attributes:
        typical_S: Median of each signal, used for the long-tailed ones.
        centre_S: Mean of the (squashed) signal; spread_S its standard deviation.
    """

    typical_S: Tensor
    centre_S: Tensor
    spread_S: Tensor
    skewed_S: Tensor
    decay_K: Tensor
    one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("typical_S", torch.ones(COUNT))
        self.register_buffer("centre_S", torch.zeros(COUNT))
        self.register_buffer("spread_S", torch.ones(COUNT))
        skewed = torch.zeros(COUNT, dtype=torch.bool)
        skewed[[INDEX[name] for name in sorted(SKEWED)]] = True
        self.register_buffer("skewed_S", skewed, persistent=False)
        self.register_buffer("decay_K", decays(HALF_LIVES), persistent=False)
        self.register_buffer("one", torch.ones(1), persistent=False)

    def squashed(self, x: Tensor) -> Tensor:
        """Values of all signals (last axis), the long-tailed ones squashed; NaN stays NaN."""
        return torch.where(self.skewed_S, x / (x + self.typical_S), x)

    def standard(self, x: Tensor) -> Tensor:
        """Values of all signals (last axis) in standard deviations; NaN stays NaN."""
        return ((self.squashed(x) - self.centre_S) / self.spread_S).clamp(-_CLIP, _CLIP)

    def forward(
        self, hours: Tensor, minutes: Tensor, newest: Tensor, age_ms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features of signals, float32[B, S, D], and of the vitals' minutes, float32[B, V, E].

        Args:
            hours: float32[B, T, S], NaN where nothing was measured.
            minutes: float32[B, M, V], the same.
            newest: float32[B, S], the same.
            age_ms: float32[B, S] of the newest values; anything where there is none.
        """
        z, here, low, high = _filled(self.standard(hours), hours)
        pooled = memories(torch.cat([z, here], 2), self.decay_K)
        value, weight = pooled[:, :, :COUNT], pooled[:, :, COUNT:]
        mean = torch.where(weight > 0, value / weight, 0.0)
        rate = weight * (1.0 - self.decay_K).reshape(1, -1, 1)
        known = ~newest.isnan()
        last = torch.where(known, self.standard(newest), 0.0)
        old = torch.where(known, age_ms / (age_ms + AGE_MS), 1.0)
        signals = torch.stack(
            [
                last,
                (~known).float(),
                old,
                mean[:, 0],
                mean[:, 1],
                mean[:, 2],
                rate[:, 1],
                rate[:, 2],
                low,
                high,
            ],
            2,
        )
        at = list(VITAL_AT)
        z = ((minutes - self.centre_S[at]) / self.spread_S[at]).clamp(-_CLIP, _CLIP)
        z, here, low, high = _filled(z, minutes)
        pooled = memories(torch.cat([z, here], 2), self.one)[:, 0]
        count = pooled[:, V:]
        present = count > 0
        mean = torch.where(present, pooled[:, :V] / count, 0.0)
        return signals, torch.stack([present.float(), mean, low, high], 2)

    def of_windows(self, windows: Windows, rows: slice) -> tuple[Tensor, Tensor]:
        """`forward` on rows of gathered windows, on this module's device."""
        device = self.typical_S.device

        def sent(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(x[rows], np.float32)).to(device)

        signals, minutes = self(
            sent(windows.hours),
            sent(windows.minutes),
            sent(windows.newest_value),
            sent(windows.newest_age_ms),
        )
        return signals, minutes


def _filled(z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values with 0 where none, where they are, and their minimum and maximum (0 if none)."""
    here = ~raw.isnan()
    # What is there is clipped: only where nothing is does infinity stand.
    low = torch.where(here, z, torch.inf).amin(1)
    some = low <= _CLIP
    low = torch.where(some, low, 0.0)
    high = torch.where(some, torch.where(here, z, -torch.inf).amax(1), 0.0)
    return torch.where(here, z, 0.0), here.float(), low, high
