"""The alert engine: from predictions, observations, cases and the clock to changes of alerts. Pure:
no I/O, no clock.

It is level-triggered: every step compares what is known of a bed with the alerts that stand, so
that a change which another writer forestalled is either not wanted any more or made at the next
step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.ward import evidence
from app.ward.beds import Bed
from app.ward.evidence import Head
from app.ward.policy import CLINICAL, IMPLAUSIBLE, KINDS, SILENCE, Kind
from app.ward.standing import Standing, opened
from app.ward.tables import NO_CASE
from streaming.messages import AlertState, Case

Thresholds = Mapping[str, Mapping[str, float]]
"""Model version to risk to threshold; of a version that is not in here nothing is known."""


class Engine:
    """The alerts of the beds of some partitions.

    Args:
        stale_after_ms: Age at which a bed's newest data is not live.
        beds: What is remembered of them.
        standing: Their alerts that are not closed.
        most_beds: Beds that there is `room` for.
        thresholds: Of each model version, each risk's.
    """

    def __init__(
        self,
        stale_after_ms: int,
        beds: Iterable[Bed] = (),
        standing: Iterable[Standing] = (),
        most_beds: int = 100_000,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._thresholds = thresholds or {}
        self._stale_ms = stale_after_ms
        self._most_beds = most_beds
        self.beds: dict[str, Bed] = {bed.bed_id: bed for bed in beds}
        self._standing: dict[str, dict[str, Standing]] = {}
        self.dirty: set[str] = set()
        self.moved: dict[str, Standing] = {}
        for alert in standing:
            self.adopt(alert)

    def alerts(self, bed_id: str) -> list[Standing]:
        """A bed's alerts that are not closed."""
        return list(self._standing.get(bed_id, {}).values())

    def find(self, bed_id: str, kind: str) -> Standing | None:
        """A bed's alert of a kind that is not closed."""
        return self._standing.get(bed_id, {}).get(kind)

    def room(self, bed_id: str) -> bool:
        """Whether a bed is known or there is room for it. Of others nothing may be taken in."""
        return bed_id in self.beds or len(self.beds) < self._most_beds

    def forget(self, before_ms: int) -> int:
        """Drop beds of which nothing was said since, that have no alert and are written; how
        many?
        """
        gone = [
            bed_id
            for bed_id, bed in self.beds.items()
            if bed.seen_ms < before_ms
            and bed_id not in self.dirty
            and not self._standing.get(bed_id)
        ]
        for bed_id in gone:
            del self.beds[bed_id]
            self._standing.pop(bed_id, None)
        return len(gone)

    def adopt(self, alert: Standing) -> None:
        """Take over an alert as the database has it, in place of what is remembered."""
        self._bed(alert.bed_id, alert.partition)
        self.moved.pop(alert.id, None)
        known = self._standing.setdefault(alert.bed_id, {})
        held = known.get(alert.kind)
        if alert.state == "closed":
            if held is not None and held.id == alert.id:
                del known[alert.kind]
        else:
            known[alert.kind] = alert

    def predict(self, head: Head, partition: int, now_ms: int) -> bool:
        """Take in a prediction. Returns whether it moved an alert; one that is a repeat does
        nothing.

        Args:
            head: The prediction.
            partition: The bed's partition.
            now_ms: Wall clock.
        """
        bed = self._heard(head.bed_id, partition, now_ms)
        if head.source.offset <= bed.source:
            return False
        self.dirty.add(bed.bed_id)
        bed.source = head.source.offset
        before = bed.case_id
        # A prediction without a case does not undo a case that is known: the worker has yet to read
        # of it.
        if head.case_id is None and bed.case_id != NO_CASE:
            return False
        if not bed.speaks_of(head.case_id, head.ts_ms):
            return False
        moved = bed.case_id != before and self._close_others(bed, "another case", now_ms)
        bed.ts_ms = max(bed.ts_ms, head.ts_ms)
        live = head.produced_ms - head.ts_ms <= self._stale_ms
        thresholds = self._thresholds.get(head.model_version, {})
        for kind in CLINICAL:
            found = evidence.judge(kind, head, bed, live, thresholds)
            if found is not None:
                timer = bed.timer(kind)
                holds, timer.value, timer.threshold = found
                timer.note(kind, holds, head.ts_ms)
            moved |= self._step(bed, kind, now_ms)
        return moved

    def observe(
        self,
        bed_id: str,
        partition: int,
        case_id: str | None,
        ts_ms: int,
        values: Mapping[str, float | None],
        heard_ms: int,
        now_ms: int,
    ) -> bool:
        """Take in an observation: the bed is heard, its values are believable or not.

        Args:
            bed_id: The bed.
            partition: Its partition.
            case_id: The case it names, if any.
            ts_ms: Its event time.
            values: Signals' values, unchecked.
            heard_ms: The broker's time of it.
            now_ms: Wall clock.

        Returns:
            Whether it moved an alert.
        """
        bed = self._heard(bed_id, partition, now_ms)
        before = bed.case_id
        if not bed.speaks_of(case_id, ts_ms):
            return False
        self.dirty.add(bed_id)
        moved = bed.case_id != before and self._close_others(bed, "another case", now_ms)
        heard_ms = min(heard_ms, now_ms)
        live = heard_ms - ts_ms <= self._stale_ms
        if heard_ms >= bed.heard_ms:
            bed.heard_ms, bed.live = heard_ms, live
        known = self._standing.get(bed_id)
        if known is not None and SILENCE.name in known:
            self._close(bed, known[SILENCE.name], "ended", "heard again", now_ms)
            moved = True
        if live:
            evidence.examine(bed, values, ts_ms)
            if bed.bad or IMPLAUSIBLE.name in bed.timers:
                timer = bed.timer(IMPLAUSIBLE)
                if bed.bad:
                    timer.value, timer.threshold, timer.reason = evidence.describe(bed)
                timer.note(IMPLAUSIBLE, bool(bed.bad), ts_ms)
                moved |= self._step(bed, IMPLAUSIBLE, now_ms, live_ms=ts_ms)
        return moved

    def case(self, bed_id: str, partition: int, case: Case | None, at_ms: int, now_ms: int) -> None:
        """Take in who lies in a bed; None: a tombstone, written at `at_ms`."""
        bed = self._heard(bed_id, partition, now_ms)
        self.dirty.add(bed_id)
        if case is None:
            if bed.case_id != NO_CASE:
                bed.enter(NO_CASE)
            bed.previous = [c for c in bed.previous if c != NO_CASE]
            self._end(bed, at_ms, now_ms)
        elif case.case_id != bed.case_id:
            if case.status == "closed" and case.case_id in bed.previous:
                return
            bed.enter(case.case_id)
            self._close_others(bed, "another case", now_ms)
            if case.status == "closed":
                self._end(bed, at_ms, now_ms)
        elif case.status == "closed":
            self._end(bed, at_ms, now_ms)
        else:
            bed.closed_ms = -1

    def tick(self, now_ms: int, heard_since: Mapping[int, int]) -> None:
        """Let time pass: silences, snoozes that end, alerts that nobody answers, refractory times
        that are over.

        Args:
            now_ms: Wall clock.
            heard_since: For each partition that is read up to its end, since when; others keep
                quiet.
        """
        for bed in self.beds.values():
            since_ms = heard_since.get(bed.partition)
            if since_ms is None or not bed.live or bed.closed_ms >= 0:
                continue
            timer = bed.timers.get(SILENCE.name)
            if (
                now_ms - max(bed.heard_ms, since_ms) > self._stale_ms
                and self.find(bed.bed_id, SILENCE.name) is None
                and (timer is None or now_ms >= timer.until_ms)
            ):
                silent_ms, most_ms = float(now_ms - bed.heard_ms), float(self._stale_ms)
                self._open(bed, SILENCE, silent_ms, most_ms, None, now_ms)
        for bed_id in [bed_id for bed_id, known in self._standing.items() if known]:
            bed = self.beds[bed_id]
            for alert in self.alerts(bed_id):
                if alert.case_id != bed.case_id:
                    self._close(bed, alert, "closed", "another case", now_ms)
                elif bed.closed_ms >= 0:
                    self._close(bed, alert, "closed", "case ended", now_ms)
                else:
                    self._step(bed, KINDS[alert.kind], now_ms)

    def _step(self, bed: Bed, kind: Kind, now_ms: int, live_ms: int | None = None) -> bool:
        """Make one kind's alert what the bed's timers ask for. Returns whether that moved it."""
        timer = bed.timers.get(kind.name)
        alert = self.find(bed.bed_id, kind.name)
        if alert is None:
            newest_ms = bed.ts_ms if live_ms is None else live_ms
            if (
                timer is None
                or not timer.holds()
                or not timer.met(kind)
                or now_ms < timer.until_ms
                or now_ms - newest_ms > self._stale_ms
            ):
                return False
            self._open(bed, kind, timer.value, timer.threshold, timer.reason, now_ms)
            return True
        answered = alert.state in ("acknowledged", "snoozed")
        if kind is not SILENCE and (timer is None or timer.ended(kind, now_ms)):
            if answered or not kind.latching:
                self._close(bed, alert, "ended", "condition ended", now_ms)
                return True
        elif kind.expire_ms is not None and now_ms - alert.opened_ms > kind.expire_ms:
            self._close(bed, alert, "expired", None, now_ms)
            return True
        if alert.due_ms is None or now_ms < alert.due_ms:
            return False
        if alert.state == "snoozed":
            self._move(alert, "open", "reopen", now_ms, kind.due_ms(now_ms), "snooze ended")
        elif alert.state == "open":
            self._move(alert, "escalated", "escalate", now_ms, None, "nobody answered")
        else:
            return False
        return True

    def _open(
        self,
        bed: Bed,
        kind: Kind,
        value: float | None,
        threshold: float | None,
        reason: str | None,
        now_ms: int,
    ) -> None:
        alert = opened(bed, kind, value, threshold, now_ms)
        self._move(alert, "open", "open", now_ms, kind.due_ms(now_ms), reason)
        self._standing.setdefault(bed.bed_id, {})[kind.name] = alert
        self.dirty.add(bed.bed_id)

    def _close(
        self, bed: Bed, alert: Standing, action: str, reason: str | None, now_ms: int
    ) -> None:
        self._move(alert, "closed", action, now_ms, None, reason)
        self._standing[alert.bed_id].pop(alert.kind, None)
        if alert.case_id == bed.case_id:
            bed.timer(KINDS[alert.kind]).rest(KINDS[alert.kind], now_ms)
        self.dirty.add(bed.bed_id)

    def _move(
        self,
        alert: Standing,
        state: AlertState,
        action: str,
        now_ms: int,
        due_ms: int | None,
        reason: str | None,
    ) -> None:
        alert.move(state, action, now_ms, due_ms, reason)
        self.moved[alert.id] = alert

    def _close_others(self, bed: Bed, reason: str, now_ms: int) -> bool:
        others = [a for a in self.alerts(bed.bed_id) if a.case_id != bed.case_id]
        for alert in others:
            self._close(bed, alert, "closed", reason, now_ms)
        return bool(others)

    def _end(self, bed: Bed, at_ms: int, now_ms: int) -> None:
        bed.forget()
        bed.closed_ms = at_ms
        for alert in self.alerts(bed.bed_id):
            self._close(bed, alert, "closed", "case ended", now_ms)

    def _heard(self, bed_id: str, partition: int, now_ms: int) -> Bed:
        bed = self._bed(bed_id, partition)
        bed.seen_ms = now_ms
        return bed

    def _bed(self, bed_id: str, partition: int) -> Bed:
        bed = self.beds.get(bed_id)
        if bed is None:
            bed = self.beds[bed_id] = Bed(bed_id, partition)
        return bed
