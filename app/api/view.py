"""The ward as it is now: each bed's newest prediction, case and open alerts. Pure.

Of two predictions of a case the one with the higher source offset is newer. A new case replaces all
that was known of the one before, and what still arrives of an earlier case is dropped, so that a
bed never shows another patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw, Struct

from streaming.messages import Alert, Case, Source

FORGET_MS = 24 * 3_600_000
"""A bed without an open case or alert, silent for so long, is forgotten."""
MOST_EARLIER = 64
"""Earlier cases of a bed that are remembered; the newest of them."""


class Head(Struct, frozen=True, gc=False):
    """What the view needs to know of a prediction; the rest passes through as it came."""

    bed_id: str
    case_id: str | None
    ts_ms: int
    produced_ms: int
    source: Source


HEAD = msgspec.json.Decoder(Head)


class BedNow(Struct):
    """BED of the contract."""

    bed_id: str
    case_id: str | None
    stale: bool
    age_ms: int | None
    prediction: Raw | None
    open_alerts: int


class BedDetail(BedNow):
    """BED with its case and alerts."""

    case: Case | None
    alerts: list[Alert]


class BedChange(Struct):
    """The `bed` event."""

    bed_id: str
    case_id: str | None
    stale: bool
    age_ms: int | None
    open_alerts: int
    cleared: bool


@dataclass(slots=True)
class _Bed:
    id: str
    case_id: str | None = None
    case: Case | None = None
    case_ms: int = -1
    head: Head | None = None
    raw: bytes = b""
    heard_ms: int = -1
    earlier: dict[str | None, None] = field(default_factory=dict)
    """Cases before, oldest first."""
    alerts: dict[str, Alert] = field(default_factory=dict)
    stale: bool = True
    vacant: bool = False


class LatestView:
    """Every bed's newest state.

    Args:
        stale_after_ms: Silence, or lag of the newest event time, after which a bed is stale.
        predicted: Told of a bed's new prediction, as it came from Kafka.
        changed: Told of a bed whose case, staleness or alerts changed.
        alerted: Told of an alert's new state.
        forgotten: Told of a bed that nobody speaks of any more.
        refused: Told of a message of a bed for which there is no room.
        most_beds: Beds that are known at most.
    """

    def __init__(
        self,
        stale_after_ms: int,
        predicted: Callable[[str, bytes], None] = lambda bed_id, raw: None,
        changed: Callable[[BedChange], None] = lambda change: None,
        alerted: Callable[[Alert], None] = lambda alert: None,
        forgotten: Callable[[str], None] = lambda bed_id: None,
        refused: Callable[[], None] = lambda: None,
        most_beds: int = 100_000,
    ) -> None:
        self._stale_after_ms = stale_after_ms
        self._predicted = predicted
        self._changed = changed
        self._alerted = alerted
        self._forgotten = forgotten
        self._refused = refused
        self._most_beds = most_beds
        self._beds: dict[str, _Bed] = {}
        self.predicted_beds = 0
        """Beds with a prediction."""

    def prediction(self, raw: bytes, record_ms: int, now_ms: int) -> bool:
        """Take a prediction; True where it is the bed's newest. Raises msgspec.DecodeError."""
        head = HEAD.decode(raw)
        bed = self._bed(head.bed_id)
        if bed is None:
            return False
        known = bed.head
        if head.case_id == bed.case_id and not bed.vacant:
            if known is not None:
                newer = head.source.offset > known.source.offset
                # Offsets that begin again (a topic made anew) come with later times.
                if not newer and head.ts_ms <= known.ts_ms:
                    return False
            moved = known is None
        elif head.case_id is None and bed.case is not None and not bed.vacant:
            return False  # the worker has yet to read of the case
        else:
            if head.case_id in bed.earlier or record_ms <= bed.case_ms:
                self._was_earlier(bed, head.case_id)
                return False
            if bed.vacant and head.case_id is not None and head.case_id == bed.case_id:
                return False
            self._leave(bed)
            bed.case_id, bed.vacant = head.case_id, False
            moved = True
        if bed.head is None:
            self.predicted_beds += 1
        bed.head, bed.raw = head, raw
        bed.heard_ms = max(bed.heard_ms, record_ms)
        stale = self._is_stale(bed, now_ms)
        if moved or stale != bed.stale:
            bed.stale = stale
            self._tell(bed, now_ms)
        self._predicted(bed.id, raw)
        return True

    def case(self, bed_id: str, case: Case | None, record_ms: int, now_ms: int) -> None:
        """Take a case; None is a tombstone."""
        bed = self._bed(bed_id)
        if bed is None or record_ms < bed.case_ms:
            return
        bed.case_ms = record_ms
        if case is None or case.status == "closed":
            self._leave(bed)
            bed.case, bed.vacant = case, True
            bed.case_id = None if case is None else case.case_id
            if case is None:
                bed.earlier.pop(None, None)
        else:
            if case.case_id != bed.case_id or bed.vacant:
                self._leave(bed)
                bed.earlier.pop(case.case_id, None)
            bed.case_id, bed.case, bed.vacant = case.case_id, case, False
        self._tell(bed, now_ms)

    def alert(self, alert: Alert, now_ms: int) -> None:
        """Take an alert's state."""
        bed = self._bed(alert.bed_id)
        if bed is None:
            return
        known = bed.alerts.get(alert.id)
        if known is not None and known.updated_ms > alert.updated_ms:
            return
        before = len(bed.alerts)
        if alert.state == "closed":
            bed.alerts.pop(alert.id, None)
        else:
            bed.alerts[alert.id] = alert
        self._alerted(alert)
        if len(bed.alerts) != before:
            self._tell(bed, now_ms)

    def sweep(self, now_ms: int) -> None:
        """Tell of beds that became stale since, and forget those that nobody speaks of any more."""
        for bed in list(self._beds.values()):
            stale = self._is_stale(bed, now_ms)
            if stale != bed.stale:
                bed.stale = stale
                self._tell(bed, now_ms)
            if (
                not bed.alerts
                and (bed.vacant or bed.case is None)
                and now_ms - max(bed.heard_ms, bed.case_ms) > FORGET_MS
            ):
                self._leave(bed)
                del self._beds[bed.id]
                self._forgotten(bed.id)

    def beds(self, now_ms: int) -> list[BedNow]:
        """All beds, by id; without those that nobody lies in."""
        return [
            self._now(bed, now_ms)
            for _, bed in sorted(self._beds.items())
            if bed.head is not None or bed.alerts or not bed.vacant
        ]

    def bed(self, bed_id: str, now_ms: int) -> BedDetail | None:
        """One bed; None where it was never seen."""
        bed = self._beds.get(bed_id)
        if bed is None:
            return None
        now = self._now(bed, now_ms)
        case = bed.case if bed.case is not None and bed.case.case_id == bed.case_id else None
        return BedDetail(
            now.bed_id,
            now.case_id,
            now.stale,
            now.age_ms,
            now.prediction,
            now.open_alerts,
            case,
            sorted(bed.alerts.values(), key=lambda alert: -alert.opened_ms),
        )

    def case_of(self, bed_id: str) -> Case | None:
        """The bed's case as published, open or closed."""
        bed = self._beds.get(bed_id)
        return None if bed is None else bed.case

    def changes(self, now_ms: int) -> Iterable[BedChange]:
        """A `bed` event of every bed."""
        return [self._change(bed, now_ms) for bed in self._beds.values()]

    def _bed(self, bed_id: str) -> _Bed | None:
        """A bed, new where there was none; None where there is no room for it."""
        bed = self._beds.get(bed_id)
        if bed is None:
            if len(self._beds) >= self._most_beds:
                self._refused()
                return None
            bed = self._beds[bed_id] = _Bed(bed_id)
        return bed

    def _leave(self, bed: _Bed) -> None:
        """What is known is of an earlier patient."""
        if bed.head is not None or bed.case is not None:
            self._was_earlier(bed, bed.case_id)
        if bed.head is not None:
            self.predicted_beds -= 1
        bed.head, bed.raw, bed.heard_ms = None, b"", -1
        if bed.case is not None and bed.case.status == "open":
            self._was_earlier(bed, bed.case.case_id)
        bed.case = None

    @staticmethod
    def _was_earlier(bed: _Bed, case_id: str | None) -> None:
        bed.earlier[case_id] = None
        while len(bed.earlier) > MOST_EARLIER:
            del bed.earlier[next(iter(bed.earlier))]

    def _age_ms(self, bed: _Bed, now_ms: int) -> int | None:
        if bed.head is None:
            return None
        return max(0, now_ms - bed.head.ts_ms, now_ms - bed.heard_ms)

    def _is_stale(self, bed: _Bed, now_ms: int) -> bool:
        age_ms = self._age_ms(bed, now_ms)
        return age_ms is None or age_ms > self._stale_after_ms

    def _now(self, bed: _Bed, now_ms: int) -> BedNow:
        return BedNow(
            bed.id,
            bed.case_id,
            self._is_stale(bed, now_ms),
            self._age_ms(bed, now_ms),
            Raw(bed.raw) if bed.head is not None else None,
            len(bed.alerts),
        )

    def _change(self, bed: _Bed, now_ms: int) -> BedChange:
        return BedChange(
            bed.id,
            bed.case_id,
            self._is_stale(bed, now_ms),
            self._age_ms(bed, now_ms),
            len(bed.alerts),
            bed.head is None,
        )

    def _tell(self, bed: _Bed, now_ms: int) -> None:
        self._changed(self._change(bed, now_ms))
