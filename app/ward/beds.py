"""What the alert engine remembers of a bed: its case, when it was heard, its conditions' timers."""

from __future__ import annotations

from msgspec import Struct, field

from app.ward.policy import GAP_MS, Kind
from app.ward.tables import NO_CASE

KEPT_CASES = 8
LOST_MS = 3_600_000
"""Wall clock without a word on a condition after which it does not hold an alert open."""


class Timer(Struct, omit_defaults=True):
    """How long a condition has held or has been gone, in event time; -1 is never.

    Attributes:
        since_ms: When it began.
        clear_ms: When it was first seen gone since.
        last_ms: Newest event time that said anything about it.
        until_ms: Wall clock before which no new alert opens.
        value: What it was last judged by.
        threshold: What that was held against.
        reason: What to tell a person, without patient data.
    """

    since_ms: int = -1
    clear_ms: int = -1
    last_ms: int = -1
    until_ms: int = -1
    value: float | None = None
    threshold: float | None = None
    reason: str | None = None

    def note(self, kind: Kind, holds: bool, ts_ms: int) -> None:
        """Take in that the condition holds, or does not, at an event time.

        An earlier time says nothing.
        """
        if ts_ms < self.last_ms:
            return
        if self.last_ms >= 0 and ts_ms - self.last_ms > GAP_MS:
            self.since_ms = self.clear_ms = -1
        self.last_ms = ts_ms
        if holds:
            self.clear_ms = -1
            if self.since_ms < 0:
                self.since_ms = ts_ms
        elif self.clear_ms < 0:
            self.clear_ms = ts_ms
        if self.clear_ms >= 0 and ts_ms - self.clear_ms >= kind.persist_ms // 4:
            # One reading below the line does not undo the minute before; a quarter of the delay
            # does.
            self.since_ms = -1

    def met(self, kind: Kind) -> bool:
        """Whether the condition has held for long enough."""
        until_ms = self.last_ms if self.clear_ms < 0 else self.clear_ms
        return self.since_ms >= 0 and until_ms - self.since_ms >= kind.persist_ms

    def holds(self) -> bool:
        """Whether it was seen last."""
        return self.since_ms >= 0 and self.clear_ms < 0

    def ended(self, kind: Kind, now_ms: int) -> bool:
        """Whether the condition is gone for long enough, or nothing was said of it for too long."""
        if self.last_ms < 0 or now_ms - self.last_ms > LOST_MS:
            return True
        if self.clear_ms >= 0:
            return self.last_ms - self.clear_ms >= kind.hold_ms
        return False

    def rest(self, kind: Kind, now_ms: int) -> None:
        """Start again after an alert, not before its refractory time is over."""
        self.since_ms = self.clear_ms = -1
        self.until_ms = now_ms + kind.refractory_ms


class Run(Struct, array_like=True):
    """A value that a signal repeats."""

    value: float
    since_ms: int
    count: int


class Bed(Struct, omit_defaults=True):
    """One bed.

    Attributes:
        bed_id: The bed.
        partition: Its partition, on every topic.
        case_id: The case that lies there; NO_CASE for an unknown one.
        closed_ms: When the case ended; -1 while it lasts.
        previous: Cases that lay there before; what comes late of them moves nothing.
        source: Offset of the newest observation that a prediction was made from.
        ts_ms: Event time of the newest prediction.
        heard_ms: Broker time of the newest observation.
        live: Whether that one spoke of its own time, not of a recorded one.
        kept_ms: Event time of the prediction last written to the history.
        kept_version: Model version of it.
        timers: Conditions by kind of alert.
        bad: Signals whose last value cannot be true, with that value.
        runs: Repeated values of the signals that a living patient keeps moving.
        seen_ms: Wall clock when anything was last said of it; -1 where that was not written down.
    """

    bed_id: str
    partition: int
    case_id: str = NO_CASE
    closed_ms: int = -1
    previous: list[str] = field(default_factory=list)
    source: int = -1
    ts_ms: int = -1
    heard_ms: int = -1
    live: bool = False
    kept_ms: int = -1
    kept_version: str = ""
    timers: dict[str, Timer] = field(default_factory=dict)
    bad: dict[str, float] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    seen_ms: int = -1

    def timer(self, kind: Kind) -> Timer:
        """The timer of a kind, made on first use."""
        found = self.timers.get(kind.name)
        if found is None:
            found = self.timers[kind.name] = Timer()
        return found

    def enter(self, case_id: str) -> None:
        """Another patient: nothing of the one before counts any more."""
        self.previous = [c for c in self.previous if c != case_id]
        self.previous = [*self.previous, self.case_id][-KEPT_CASES:]
        self.case_id = case_id
        self.closed_ms = self.kept_ms = -1
        self.forget()

    def forget(self) -> None:
        """Drop all that was measured."""
        self.timers.clear()
        self.bad.clear()
        self.runs.clear()
        self.ts_ms = -1
        self.live = False

    def speaks_of(self, case_id: str | None, ts_ms: int) -> bool:
        """Whether a message's case is the one in the bed; enters a case that is new.

        Args:
            case_id: What the message says; None where it names no case.
            ts_ms: The message's event time.
        """
        if case_id is None:
            if self.closed_ms < 0:
                return True
            if self.case_id == NO_CASE and ts_ms > self.closed_ms:
                self.closed_ms = -1
                return True
            return False
        if case_id == self.case_id:
            return self.closed_ms < 0
        if case_id in self.previous:
            return False
        self.enter(case_id)
        return True
