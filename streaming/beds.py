"""A bed: who lies in it, where its window lives, and which observations are still its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from streaming.messages import Case
from streaming.model import WindowStore

REDELIVERED: Final = "redelivered"
OTHER_CASE: Final = "other_case"
BEFORE_CASE: Final = "before_case"
CASE_CLOSED: Final = "case_closed"
OUT_OF_BOUNDS: Final = "out_of_bounds"
LATE: Final = "late"
MESSAGE_REASONS: Final = (REDELIVERED, OTHER_CASE, BEFORE_CASE, CASE_CLOSED)
VALUE_REASONS: Final = (OUT_OF_BOUNDS, LATE)
_NEVER: Final = 1 << 62


class Home(Protocol):
    """Where a bed's window lives: a window store and its free slots."""

    @property
    def store(self) -> WindowStore:
        """The windows."""

    def claim(self) -> int:
        """A free slot, empty."""

    def release(self, slot: int) -> None:
        """Empty a slot and take it out of the queue; it may be claimed again."""

    def queued(self, slot: int) -> bool:
        """Whether a slot's window is due."""


@dataclass(slots=True, eq=False)
class Bed:
    """One bed of one partition.

    Attributes:
        bed_id: Its name.
        partition: Partition that speaks of it.
        home: Where its window lives.
        slot: Row of its window there, -1 while it has none.
        case_id: Who lies in it, None where nobody says.
        case: What is known of the case, None where nothing is.
        closed: Whether the case has ended.
        since_ms: Admission of the case, or the time of the first observation that named it; -1
            where unknown.
        previous: Earlier cases, oldest first.
        tombstone_ms: When the bed's case was deleted, -1 where it never was.
        seen: Highest offset that was looked at, dropped or not.
        source: Highest offset in the window, -1 where none.
        heard_ms: When something last arrived.
        generation: Grows when the window is emptied or the bed is forgotten.
        waiting: Under `emit=each`: its window is due and not gathered, so the next observation has
            to wait.
        warming: Whether the model had too little to speak when it was last asked.
    """

    bed_id: str
    partition: int
    home: Home
    slot: int = -1
    case_id: str | None = None
    case: Case | None = None
    closed: bool = False
    since_ms: int = -1
    previous: list[str] = field(default_factory=list)
    tombstone_ms: int = -1
    seen: int = -1
    source: int = -1
    heard_ms: int = -1
    generation: int = 0
    waiting: bool = False
    warming: bool = False
    floor_ms: int = 0
    """Observations without a case id before this are dropped."""

    @property
    def phase_ms(self) -> int:
        """Where a window that is opened now is cut."""
        return self.case.admitted_ms if self.case is not None else 0

    def set_floor(self) -> None:
        """Work out `floor_ms` from the rest."""
        if self.closed:
            self.floor_ms = _NEVER
        else:
            replaced = self.since_ms if self.previous and self.case_id is not None else 0
            self.floor_ms = max(self.tombstone_ms + 1, replaced)
