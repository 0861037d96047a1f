"""When the ward speaks: the alert policy, as data with a version.

Sources. Delays before sounding cut SpO2 alarms by 60 % (Welch 2011, Biomed Instrum Technol 45
s1:46); silencing for 30 minutes after an alarm is circEWS's (Hyland 2020, Nat Med 26:364); NEWS2 of
7 or more asks for an emergency response (Royal College of Physicians 2017); priorities are those of
IEC 60601-1-8. Death in hospital has no alert: it calls for no single act, and stays on the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streaming.messages import Priority

VERSION: Final = "2026-11-1"

MINUTE_MS: Final = 60_000
SNOOZE_MINUTES: Final = 15
SNOOZE_MOST_MINUTES: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of alert.

    Attributes:
        name: The alert's `kind`.
        priority: As in IEC 60601-1-8.
        persist_ms: How long the condition must hold before the alert opens.
        hold_ms: How long it must be gone before the alert closes.
        refractory_ms: Least time between a closing and the next opening.
        escalate_ms: Time without an answer after which it is escalated; None: never.
        expire_ms: Age at which it closes although the condition holds; None: never.
        risk: Risk of the prediction it stands on, entered and left by the shipped threshold.
        score: Score it stands on, entered at `enter` and left below `leave`.
        fresh: Signals of which at least `fresh_least` must be no older than `fresh_ms`.
    """

    name: str
    priority: Priority
    persist_ms: int
    hold_ms: int
    refractory_ms: int
    escalate_ms: int | None
    expire_ms: int | None = None
    risk: str | None = None
    score: str | None = None
    enter: float = 0.0
    leave: float = 0.0
    fresh: tuple[str, ...] = ()
    fresh_least: int = 1
    fresh_ms: int = 15 * MINUTE_MS

    def due_ms(self, now_ms: int) -> int | None:
        """When an alert that nobody answers is escalated; None: never."""
        return None if self.escalate_ms is None else now_ms + self.escalate_ms

    @property
    def latching(self) -> bool:
        """Whether it stays, once open, until somebody answers."""
        return self.priority == "high"


CLINICAL: Final[tuple[Kind, ...]] = (
    Kind(
        name="sepsis",
        priority="high",
        risk="sepsis",
        persist_ms=5 * MINUTE_MS,
        hold_ms=15 * MINUTE_MS,
        refractory_ms=6 * 60 * MINUTE_MS,
        escalate_ms=15 * MINUTE_MS,
        fresh=("hr", "resp", "temp", "map", "sbp"),
        fresh_least=2,
    ),
    Kind(
        name="hypotension",
        priority="medium",
        risk="hypotension",
        persist_ms=1 * MINUTE_MS,
        hold_ms=5 * MINUTE_MS,
        refractory_ms=30 * MINUTE_MS,
        escalate_ms=15 * MINUTE_MS,
        fresh=("map", "sbp"),
    ),
    Kind(
        name="hypoxaemia",
        priority="medium",
        risk="hypoxaemia",
        persist_ms=1 * MINUTE_MS,
        hold_ms=5 * MINUTE_MS,
        refractory_ms=30 * MINUTE_MS,
        escalate_ms=15 * MINUTE_MS,
        fresh=("spo2",),
    ),
    Kind(
        name="news2",
        priority="high",
        score="news2",
        enter=7,
        leave=6,
        persist_ms=1 * MINUTE_MS,
        hold_ms=10 * MINUTE_MS,
        refractory_ms=30 * MINUTE_MS,
        escalate_ms=10 * MINUTE_MS,
        fresh=("hr", "resp", "spo2", "sbp", "temp"),
        fresh_least=2,
    ),
)

SILENCE: Final = Kind(
    name="silence",
    priority="low",
    persist_ms=0,
    hold_ms=0,
    refractory_ms=1 * MINUTE_MS,
    escalate_ms=None,
    expire_ms=12 * 60 * MINUTE_MS,
)
IMPLAUSIBLE: Final = Kind(
    name="implausible",
    priority="low",
    persist_ms=30_000,
    hold_ms=1 * MINUTE_MS,
    refractory_ms=30 * MINUTE_MS,
    escalate_ms=None,
    expire_ms=12 * 60 * MINUTE_MS,
)
TECHNICAL: Final = (SILENCE, IMPLAUSIBLE)
KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in (*CLINICAL, *TECHNICAL)}

GAP_MS: Final = 10 * MINUTE_MS
"""Event time without a word on a condition after which what was known of it counts no more."""

FROZEN_SIGNALS: Final = ("hr", "resp", "spo2")
FROZEN_MS: Final = 15 * MINUTE_MS
FROZEN_LEAST: Final = 300
"""A living patient's signals do not all repeat their values so long, so often."""
