"""What goes wrong between a patient and the stream: movement, loose leads, clocks, networks.

Axes: B beds, columns as `physiology.MONITOR`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_MOTION_EVERY_S: Final = 700.0
_MOTION_S: Final = (6.0, 25.0)
_LEAD_OFF_EVERY_S: Final = 3_000.0
_LEAD_OFF_S: Final = (15.0, 60.0)
_SILENT_EVERY_S: Final = 20_000.0
_SILENT_S: Final = (40.0, 110.0)
_DUPLICATED: Final = 0.002
_HELD: Final = 0.002
_SKEW_MS: Final = 350.0
_MAX_SKEW_MS: Final = 1_500.0
_CALM_S: Final = 60.0
"""Nothing goes wrong in the first minute: a ward is seen whole first."""
_LEADS: Final = ((0, 5), (1,), (2, 3, 4), (6,))
"""Columns a loose lead takes with it: ECG (rate and breathing), oximeter, arterial line, probe."""


class Artefacts:
    """The ward's troubles. Not thread-safe.

    Args:
        beds: How many.
        rng: Where chance comes from.
        share: 0 for none at all, 1 for a usual ward.
    """

    def __init__(self, beds: int, rng: np.random.Generator, share: float = 1.0) -> None:
        self._rng, self._share, self._beds = rng, share, beds
        self._motion_left_s = np.zeros(beds)
        self._lead_left_s = np.zeros((beds, len(_LEADS)))
        self._silent_left_s = np.zeros(beds)
        skew = rng.normal(0, _SKEW_MS, beds).clip(-_MAX_SKEW_MS, _MAX_SKEW_MS) * share
        self.skew_ms: NDArray[np.int64] = np.rint(skew).astype(np.int64)

    def disturb(
        self, read: Floats, dt_s: float, live_s: float
    ) -> tuple[Floats, Flags, Flags, Flags]:
        """What the monitors send of what they should have read.

        Returns:
            Readings with NaN where a lead is off, float64[B, 8]; which beds are silent, whose
            message is sent twice, and whose is held back, bool[B] each.
        """
        none = np.zeros(self._beds, np.bool_)
        if self._share <= 0 or live_s < _CALM_S:
            return read, none, none, none
        rng = self._rng
        self._motion_left_s = self._go_on(self._motion_left_s, dt_s, _MOTION_EVERY_S, _MOTION_S)
        self._lead_left_s = self._go_on(self._lead_left_s, dt_s, _LEAD_OFF_EVERY_S, _LEAD_OFF_S)
        self._silent_left_s = self._go_on(self._silent_left_s, dt_s, _SILENT_EVERY_S, _SILENT_S)
        sent = read.copy()
        moving = np.flatnonzero(self._motion_left_s > 0)
        if len(moving):
            sent[moving, 1] = np.round(
                (sent[moving, 1] - rng.exponential(6.0, len(moving))).clip(50, 100)
            )
            sent[moving, 0] = np.round(
                (sent[moving, 0] + rng.normal(0, 12.0, len(moving))).clip(30, 240)
            )
        for lead, columns in enumerate(_LEADS):
            off = np.flatnonzero(self._lead_left_s[:, lead] > 0)
            for column in columns if len(off) else ():
                sent[off, column] = np.nan
        chance = rng.random(self._beds)
        twice = chance < _DUPLICATED * self._share
        held = (chance > 1 - _HELD * self._share) & ~twice
        return sent, self._silent_left_s > 0, twice, held

    def _go_on(
        self, left_s: Floats, dt_s: float, every_s: float, length_s: tuple[float, float]
    ) -> Floats:
        """Let troubles pass and new ones begin."""
        left_s = np.maximum(left_s - dt_s, 0.0)
        begins = self._rng.random(left_s.shape) < dt_s / every_s * self._share
        if begins.any():
            fresh = self._rng.uniform(*length_s, left_s.shape)
            left_s = np.where(begins, np.maximum(left_s, fresh), left_s)
        return left_s
