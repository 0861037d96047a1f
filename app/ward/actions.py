"""What a person may do to an alert, in which state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from app.ward.policy import MINUTE_MS, SNOOZE_MINUTES, SNOOZE_MOST_MINUTES
from streaming.messages import AlertState

Action = Literal["acknowledge", "snooze", "escalate"]

ALLOWED: Final[dict[Action, frozenset[AlertState]]] = {
    "acknowledge": frozenset({"open", "escalated", "snoozed"}),
    # Not from `snoozed`: every snooze ends before the next begins.
    "snooze": frozenset({"open", "escalated", "acknowledged"}),
    "escalate": frozenset({"open", "acknowledged", "snoozed"}),
}
RESULT: Final[dict[Action, AlertState]] = {
    "acknowledge": "acknowledged",
    "snooze": "snoozed",
    "escalate": "escalated",
}


class UnknownAlert(LookupError):
    """There is no alert of this id."""


class StateConflict(RuntimeError):
    """The alert's state does not allow the action."""

    def __init__(self, state: AlertState, action: Action) -> None:
        super().__init__(f"cannot {action} an alert that is {state}")
        self.state = state
        self.action = action


@dataclass(frozen=True, slots=True)
class Answer:
    """The state an action leads to, and when a snooze ends."""

    state: AlertState
    due_ms: int | None


def answer(state: AlertState, action: Action, minutes: int | None, now_ms: int) -> Answer:
    """What an action makes of a state.

    Raises StateConflict, and ValueError for minutes out of range.
    """
    if action != "snooze" and minutes is not None:
        raise ValueError("minutes are for a snooze")
    minutes = SNOOZE_MINUTES if minutes is None else minutes
    if not 1 <= minutes <= SNOOZE_MOST_MINUTES:
        raise ValueError(f"minutes must be 1 to {SNOOZE_MOST_MINUTES}")
    if state not in ALLOWED[action]:
        raise StateConflict(state, action)
    due_ms = now_ms + minutes * MINUTE_MS if action == "snooze" else None
    return Answer(RESULT[action], due_ms)
