"""An alert as the ward holds it in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from app.ward.policy import VERSION
from streaming.messages import AlertChange, AlertState, Priority

WARD: Final = "ward"


@dataclass(slots=True, kw_only=True)
class Standing:
    """An alert that is not closed, or was closed and not yet written.

    Attributes:
        version: Grows by one with each change.
        written: The version in the database; 0: not there yet.
        changes: Changes since, one for each version.
    """

    id: str
    bed_id: str
    case_id: str
    partition: int
    kind: str
    priority: Priority
    state: AlertState
    opened_ms: int
    updated_ms: int
    value: float | None
    threshold: float | None
    due_ms: int | None
    version: int
    written: int
    policy: str = VERSION
    changes: list[AlertChange] = field(default_factory=list)

    def move(
        self, state: AlertState, action: str, now_ms: int, due_ms: int | None, reason: str | None
    ) -> None:
        """Change the state and remember who, when and why."""
        self.state = state
        self.due_ms = due_ms
        self.updated_ms = max(now_ms, self.updated_ms)
        self.version += 1
        self.changes.append(AlertChange(now_ms, WARD, action, reason))
