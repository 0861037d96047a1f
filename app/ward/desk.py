"""The ward at work: takes records, keeps the books, writes them. Synchronous; one thread at a time.

Memory is ahead of the database by what came since the last write. What cannot be written stays and
is written later; what is lost with the process is read again, because offsets move only with what
was made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from app.ward import history
from app.ward.alerts import Engine, Thresholds
from app.ward.evidence import Head
from app.ward.history import Kept
from app.ward.ledger import Book, Ledger, Place, Position
from app.ward.standing import Standing
from app.ward.trends import Trends
from models.signals import NAMES
from streaming.codec import VitalsDecoder, decode_case
from streaming.messages import CASES, PREDICTIONS, VITALS, Alert
from streaming.observations import Observations
from streaming.refusals import TOO_MANY_BEDS, BadMessage
from streaming.telemetry import SILENT, Telemetry

if TYPE_CHECKING:
    from streaming.consumer import Record

log = structlog.get_logger(__name__)

TOPICS: Final = (VITALS, CASES, PREDICTIONS)
_BOOKS: Final[dict[Book, tuple[str, ...]]] = {"alerts": TOPICS, "trends": (VITALS,)}
_Message = tuple[str, str | None, int, int, dict[str, float]]
"""Bed, case, event time, broker time, values."""
_HEAD: Final = msgspec.json.Decoder(Head)

ALERTS_EVERY_MS: Final = 1_000
ALERTS_MANY_EVERY_MS: Final = 5_000
MANY_BEDS: Final = 250
"""Changed beds above which their memory is written less often."""
TRENDS_EVERY_MS: Final = 2_000
TRENDS_MANY_EVERY_MS: Final = 10_000
MANY_ROWS: Final = 1_000
"""Trend rows above which they are written less often."""
FORGET_EVERY_MS: Final = 60_000
MOST_KEPT: Final = 2_000
MOST_FRESH: Final = 50_000


class Desk:
    """The alert engine, the trends and the ledger of the partitions owned now.

    Args:
        ledger: Where it is written.
        stale_after_ms: Age at which a bed's newest data is not live.
        max_skew_ms: How far ahead of the broker's clock an event time may be.
        telemetry: Hears of opened alerts, and of messages of beds for which there is no room.
        most_beds: Beds that are known at most.
        idle_ms: Silence after which a bed is forgotten.
        thresholds: Of each model version, each risk's.
    """

    def __init__(
        self,
        ledger: Ledger,
        stale_after_ms: int,
        max_skew_ms: int = 60_000,
        telemetry: Telemetry = SILENT,
        most_beds: int = 100_000,
        idle_ms: int = 96 * 3_600_000,
        thresholds: Thresholds | None = None,
    ) -> None:
        self._thresholds = thresholds
        self._most_beds = most_beds
        self._idle_ms = idle_ms
        self._ledger = ledger
        self._stale_ms = stale_after_ms
        self._telemetry = telemetry
        self._decoder = VitalsDecoder(max_skew_ms)
        self.release()

    def release(self) -> None:
        """Forget everything: the partitions are gone. What was not written is another owner's to
        read again.
        """
        self.epoch = -1
        self.partitions: frozenset[int] = frozenset()
        self.engine = Engine(self._stale_ms)
        self._forgot_ms = 0
        self._trends = Trends()
        self._at: dict[Book, dict[Place, Position]] = {"alerts": {}, "trends": {}}
        self._moved: dict[Book, set[Place]] = {"alerts": set(), "trends": set()}
        self._checks: dict[Place, Position] = {}
        self._kept: list[Kept] = []
        self._wrote_ms: dict[Book, int] = {"alerts": 0, "trends": 0}
        self._newest_ms: dict[Place, int] = {}
        self._versions: dict[str, int] = {}

    def assign(
        self, epoch: int, partitions: Iterable[int], ends: Mapping[Place, int]
    ) -> dict[Place, int]:
        """Take partitions over and say from which offset each topic is to be read.

        Args:
            epoch: Of the assignment; records of another one are not taken.
            partitions: Partition numbers, the same for every topic.
            ends: Offset after the last record of each topic and partition.

        Raises:
            DatabaseGone: Nothing was taken over; try again.
        """
        self.release()
        owned = sorted(partitions)
        self._ledger.renew()
        at: dict[Book, dict[Place, Position]] = {
            book: self._ledger.claim(book, [(t, p) for t in topics for p in owned])
            for book, topics in _BOOKS.items()
        }
        self.engine = Engine(
            self._stale_ms,
            self._ledger.beds(owned),
            self._ledger.standing(owned),
            self._most_beds,
            self._thresholds,
        )
        self._at = at
        self.epoch, self.partitions = epoch, frozenset(owned)
        self._made_anew(
            [
                place
                for place in at["alerts"]
                if place in ends
                and ends[place] < max(b[place].next_offset for b in self._books(place))
            ]
        )
        starts: dict[Place, int] = {}
        for place in at["alerts"]:
            positions = [book[place] for book in self._books(place)]
            first = min(positions, key=lambda position: position.next_offset)
            if first.next_offset > 0:
                # The record before is read again: another one there means a topic made anew.
                self._checks[place] = first
            starts[place] = max(0, first.next_offset - 1)
        return starts

    def take(self, place: Place, records: Sequence[Record], epoch: int, now_ms: int) -> int | None:
        """Take in records of one partition, in their order.

        Returns:
            The offset to read on from where the topic turns out to have been made anew, else None.
        """
        if epoch != self.epoch or place not in self._at["alerts"] or not records:
            return None
        if (check := self._checks.pop(place, None)) is not None:
            first = records[0]
            if first.offset < check.next_offset and (
                first.offset != check.next_offset - 1 or first.timestamp != check.last_ms
            ):
                self._made_anew([place])
                return 0
        self._newest_ms[place] = records[-1].timestamp
        messages: list[_Message] = []
        taken = -1
        for book in self._books_of(place):
            position = self._at[book][place]
            fresh = [record for record in records if record.offset >= position.next_offset]
            if not fresh:
                continue
            if place[0] == VITALS:
                if taken != len(fresh):
                    messages = _unpack(self._decoder.decode(fresh, now_ms)[0])
                    taken = len(fresh)
                self._observe(book, place[1], messages, now_ms)
            elif place[0] == CASES:
                self._cases(place[1], fresh, now_ms)
            else:
                self._predictions(place[1], fresh, now_ms)
            last = fresh[-1]
            self._at[book][place] = Position(last.offset + 1, last.timestamp, position.generation)
            self._moved[book].add(place)
        return None

    def next_offset(self, place: Place) -> int:
        """The offset after the last record taken in."""
        position = self._at["alerts"].get(place)
        return position.next_offset if position else 0

    def newest_ms(self, place: Place) -> int:
        """Broker time of the newest record taken in; -1 before the first."""
        return self._newest_ms.get(place, -1)

    def tick(self, now_ms: int, heard_since: Mapping[int, int]) -> None:
        """Let time pass in the engine; see `Engine.tick`."""
        self.engine.tick(now_ms, heard_since)
        if now_ms - self._forgot_ms >= FORGET_EVERY_MS:
            self._forgot_ms = now_ms
            self.engine.forget(now_ms - self._idle_ms)

    def write(self, now_ms: int, everything: bool = False) -> bool:
        """Write what is due. Returns whether alerts changed.

        Raises:
            DatabaseGone: What was to be written is kept.
            Fenced: The partitions are another ward's.
        """
        changed = False
        many = len(self.engine.dirty) > MANY_BEDS
        wait_ms = ALERTS_MANY_EVERY_MS if many else ALERTS_EVERY_MS
        due = everything or now_ms - self._wrote_ms["alerts"] >= wait_ms
        if self.engine.moved or len(self._kept) > MOST_KEPT or (due and self._moved["alerts"]):
            changed = self._write_alerts(now_ms)
        wait_ms = TRENDS_MANY_EVERY_MS if len(self._trends) > MANY_ROWS else TRENDS_EVERY_MS
        due = everything or now_ms - self._wrote_ms["trends"] >= wait_ms
        if self._moved["trends"] and (due or len(self._trends) > MOST_FRESH):
            self._write_trends(now_ms)
        return changed

    def outbox(self) -> list[Alert]:
        """Alerts to publish; what people did to them the engine takes over on the way."""
        if not self.partitions:
            return []
        rows = self._ledger.unpublished(sorted(self.partitions))
        for standing, _ in rows:
            known = self.engine.find(standing.bed_id, standing.kind)
            if standing.id not in self.engine.moved and (
                known is None or known.version < standing.version or known.id != standing.id
            ):
                self.engine.adopt(standing)
        self._versions = {standing.id: standing.version for standing, _ in rows}
        return [alert for _, alert in rows]

    def published(self) -> None:
        """What `outbox` gave was acknowledged by Kafka."""
        self._ledger.published(self._versions)

    def _write_alerts(self, now_ms: int) -> bool:
        moved = list(self.engine.moved.values())
        beds = [self.engine.beds[bed_id] for bed_id in self.engine.dirty]
        moves = {place: self._at["alerts"][place] for place in self._places(moved)}
        forestalled = self._ledger.write_alerts(moves, self._kept, beds, moved, now_ms)
        lost = {alert.id for alert in forestalled}
        for alert in moved:
            if alert.id not in lost:
                if alert.written == 0:
                    self._telemetry.alert(alert.kind, alert.priority)
                alert.written = alert.version
                alert.changes.clear()
        self.engine.moved.clear()
        for alert in forestalled:
            self.engine.adopt(alert)
        self.engine.dirty.clear()
        self._kept.clear()
        self._moved["alerts"].clear()
        self._wrote_ms["alerts"] = now_ms
        return bool(moved)

    def _write_trends(self, now_ms: int) -> None:
        stored = self._ledger.stored(self._trends.unknown())
        rows = self._trends.merge(stored)
        moves = {place: self._at["trends"][place] for place in self._moved["trends"]}
        self._ledger.write_trends(moves, rows)
        self._trends.written()
        self._moved["trends"].clear()
        self._wrote_ms["trends"] = now_ms

    def _places(self, moved: Iterable[Standing]) -> set[Place]:
        # A timer moves alerts without any record: the owner's mark must be looked at all the same.
        places = set(self._moved["alerts"])
        partitions = {alert.partition for alert in moved} | {p for _, p in places}
        return places | {
            (VITALS, partition) for partition in partitions if partition in self.partitions
        }

    def _predictions(self, partition: int, records: Sequence[Record], now_ms: int) -> None:
        generation = self._at["alerts"][VITALS, partition].generation
        for record in records:
            try:
                head = _HEAD.decode(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("prediction not understood", partition=partition, offset=record.offset)
                self._telemetry.message(PREDICTIONS, "rejected")
                continue
            if not self._admits(head.bed_id):
                continue
            bed = self.engine.beds.get(head.bed_id)
            if bed is not None and head.source.offset <= bed.source:
                continue  # a repeat
            moved = self.engine.predict(head, partition, now_ms)
            bed = self.engine.beds[head.bed_id]
            kept = history.keep(bed, head, record.value, generation, moved)
            if kept is not None:
                self._kept.append(kept)

    def _cases(self, partition: int, records: Sequence[Record], now_ms: int) -> None:
        for record in records:
            try:
                if record.value is None:
                    bed_id, case = (record.key or b"").decode(), None
                else:
                    case = decode_case(record.value, record.key)
                    bed_id = case.bed_id
            except (BadMessage, UnicodeDecodeError):
                log.warning("case not understood", partition=partition, offset=record.offset)
                continue
            if bed_id and self._admits(bed_id):
                self.engine.case(bed_id, partition, case, record.timestamp, now_ms)

    def _observe(
        self, book: Book, partition: int, messages: Iterable[_Message], now_ms: int
    ) -> None:
        if book == "trends":
            for bed_id, _, ts_ms, _, values in messages:
                if self.engine.room(bed_id):
                    self._trends.add(bed_id, ts_ms, values)
            return
        for bed_id, case_id, ts_ms, broker_ms, values in messages:
            if self._admits(bed_id):
                self.engine.observe(bed_id, partition, case_id, ts_ms, values, broker_ms, now_ms)

    def _admits(self, bed_id: str) -> bool:
        admitted = self.engine.room(bed_id)
        if not admitted:
            self._telemetry.skipped(TOO_MANY_BEDS)
        return admitted

    def _books_of(self, place: Place) -> list[Book]:
        return [book for book, at in self._at.items() if place in at]

    def _books(self, place: Place) -> list[dict[Place, Position]]:
        return [self._at[book] for book in self._books_of(place)]

    def _made_anew(self, places: Sequence[Place]) -> None:
        for place in places:
            for at in self._books(place):
                at[place] = Position(0, -1, at[place].generation + 1)
            if place[0] == VITALS:
                for bed in self.engine.beds.values():
                    if bed.partition == place[1]:
                        bed.source = -1
        for topic, count in Counter(topic for topic, _ in places).items():
            log.warning(
                "topic was made anew, read from its beginning", topic=topic, partitions=count
            )


def _unpack(observations: Observations) -> list[_Message]:
    signals, numbers = observations.signal.tolist(), observations.value.tolist()
    messages: list[_Message] = []
    start = 0
    for bed_id, case_id, ts_ms, broker_ms, size in zip(
        observations.bed_ids,
        observations.case_ids,
        observations.ts_ms.tolist(),
        observations.broker_ms.tolist(),
        observations.sizes.tolist(),
        strict=True,
    ):
        end = start + size
        values = {
            NAMES[i]: v
            for i, v in zip(signals[start:end], numbers[start:end], strict=True)
            if v == v  # null arrives as NaN
        }
        start = end
        messages.append((bed_id, case_id, ts_ms, broker_ms, values))
    return messages
