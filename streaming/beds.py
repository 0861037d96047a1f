"""A bed: who lies in it, where its window lives, and which observations are still its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

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
MOST_PREVIOUS: Final = 64
"""Earlier cases of a bed that are remembered; months of them."""
_MOST_RECORDED: Final = 8
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


class Recorded(NamedTuple):
    """What `icu.cases` says of a bed, by the rules of `streaming.windows`.

    Attributes:
        case: The newest case; None after a tombstone.
        earlier: Cases that it replaced, oldest first.
        tombstone_ms: When the bed's case was deleted, -1 where it never was.
    """

    case: Case | None = None
    earlier: tuple[str, ...] = ()
    tombstone_ms: int = -1

    def after(self, case: Case | None, ms: int) -> Recorded:
        """What is on record after one more; `ms` is its time."""
        known, earlier = self.case, self.earlier
        if known is not None and (case is None or case.case_id != known.case_id):
            if case is not None and case.case_id in earlier:
                back = case.status == "open" and case.admitted_ms > known.admitted_ms
                if not back:
                    return self
            earlier = (*earlier, known.case_id)[-_MOST_RECORDED:]
        if case is None:
            return Recorded(None, earlier, max(self.tombstone_ms, ms))
        earlier = tuple(name for name in earlier if name != case.case_id)
        return Recorded(case, earlier, self.tombstone_ms)


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

    def recall(self, recorded: Recorded) -> None:
        """Begin with what is on record."""
        self.previous = list(recorded.earlier)
        self.tombstone_ms = recorded.tombstone_ms
        if (case := recorded.case) is not None:
            self.case_id, self.case, self.since_ms = case.case_id, case, case.admitted_ms
            self.closed = case.status == "closed"
        self.set_floor()

    def set_floor(self) -> None:
        """Work out `floor_ms` from the rest."""
        if self.closed:
            self.floor_ms = _NEVER
        else:
            replaced = self.since_ms if self.previous and self.case_id is not None else 0
            self.floor_ms = max(self.tombstone_ms + 1, replaced)

    def stranger(self, case_id: str, ts_ms: int) -> str | None:
        """Why an observation that names another case than the bed's is dropped; None for a new
        case.
        """
        if case_id in self.previous:
            return OTHER_CASE
        if ts_ms <= self.tombstone_ms:
            return CASE_CLOSED
        if self.case is not None and ts_ms < self.case.admitted_ms:
            if len(self.previous) < MOST_PREVIOUS:
                # Nothing is forgotten for it: it would be recognised again by its time.
                self.previous.insert(0, case_id)
            self.set_floor()
            return OTHER_CASE
        return None
