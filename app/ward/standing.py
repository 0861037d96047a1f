"""An alert as the ward holds it in memory."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Final

from app.ward.beds import Bed
from app.ward.policy import VERSION, Kind
from streaming.messages import AlertChange, AlertState, Priority

WARD: Final = "ward"
_NAMESPACE: Final = uuid.UUID("6f0e1f0c-7a53-4d0e-9a44-6d2c5e0e7d11")


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


def opened(
    bed: Bed, kind: Kind, value: float | None, threshold: float | None, now_ms: int
) -> Standing:
    """A new alert, before its first change. Its id follows from what and when: a repeat is the
    same alert.
    """
    name = "\0".join((bed.bed_id, bed.case_id, kind.name, str(now_ms)))
    return Standing(
        id=str(uuid.uuid5(_NAMESPACE, name)),
        bed_id=bed.bed_id,
        case_id=bed.case_id,
        partition=bed.partition,
        kind=kind.name,
        priority=kind.priority,
        state="open",
        opened_ms=now_ms,
        updated_ms=now_ms,
        value=value,
        threshold=threshold,
        due_ms=None,
        version=0,
        written=0,
    )
