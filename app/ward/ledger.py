"""What the ward writes: offsets together with what was made of them, in one transaction.
Synchronous, one thread.

A book (`alerts`, `trends`) is what is written together. Taking over its partitions marks them with
a token of the new owner; a write whose token is not there any more is refused, so that a ward which
was away and comes back late writes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Connection, insert, select, update

from app.ward import bulk, database
from app.ward.beds import Bed
from app.ward.history import Kept
from app.ward.standing import Standing
from app.ward.store import opened, with_history
from app.ward.tables import ALERTS, BEDS, CHANGES, OFFSETS, PREDICTIONS, TRENDS
from app.ward.trends import Key, Minute
from streaming.messages import Alert

Book = Literal["alerts", "trends"]
_BED: Final = msgspec.json.Decoder(Bed)
_BED_OF: Final = msgspec.json.Encoder()


class Fenced(RuntimeError):
    """Another ward has taken the partitions over."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a partition was written: the next offset, the broker time of the record before."""

    next_offset: int
    last_ms: int
    generation: int = 0


Place = tuple[str, int]
"""Topic and partition."""


class Ledger:
    """The ward's side of the database.

    Every method raises DatabaseGone while it does not answer.
    """

    def __init__(self, database_url: str) -> None:
        """Open nothing yet. Raises database.BadDatabase."""
        self.engine = database.open_engine(database_url)
        self.token = ""

    def close(self) -> None:
        """Close all connections; may be called twice."""
        self.engine.dispose()

    def check(self) -> None:
        """Raise DatabaseGone or NotMigrated unless the database can be used."""
        with opened(self.engine) as connection:
            database.require_schema(connection)

    def claim(self, book: Book, places: Iterable[Place]) -> dict[Place, Position]:
        """Take partitions over for a book under the current token; how far was each written?"""
        found: dict[Place, Position] = {}
        with opened(self.engine, writes=True) as connection:
            for topic, partition in sorted(places):
                where = _at(book, topic, partition)
                done = connection.execute(update(OFFSETS).where(*where).values(owner=self.token))
                if done.rowcount == 0:
                    connection.execute(
                        insert(OFFSETS).values(
                            book=book,
                            topic=topic,
                            partition=partition,
                            next_offset=0,
                            last_ms=-1,
                            generation=0,
                            owner=self.token,
                        )
                    )
                row = connection.execute(select(OFFSETS).where(*where)).one()
                found[topic, partition] = Position(row.next_offset, row.last_ms, row.generation)
        return found

    def renew(self) -> None:
        """Make a new token: what was claimed before counts no more."""
        self.token = uuid.uuid4().hex

    def beds(self, partitions: Sequence[int]) -> list[Bed]:
        """What was remembered of the partitions' beds."""
        with opened(self.engine) as connection:
            query = select(BEDS.c.state, BEDS.c.seen_ms).where(BEDS.c.partition.in_(partitions))
            found = []
            for row in connection.execute(query):
                found.append(bed := _BED.decode(row.state))
                bed.seen_ms = max(bed.seen_ms, row.seen_ms)
            return found

    def standing(self, partitions: Sequence[int]) -> list[Standing]:
        """The partitions' alerts that are not closed."""
        query = select(ALERTS).where(ALERTS.c.partition.in_(partitions), ALERTS.c.state != "closed")
        with opened(self.engine) as connection:
            return [_standing(row) for row in connection.execute(query)]

    def unpublished(
        self, partitions: Sequence[int], limit: int = 500
    ) -> list[tuple[Standing, Alert]]:
        """Alerts that changed since Kafka last had them, by whomever, oldest change first."""
        query = (
            select(ALERTS)
            .where(ALERTS.c.partition.in_(partitions), ALERTS.c.version > ALERTS.c.published)
            .order_by(ALERTS.c.updated_ms)
            .limit(limit)
        )
        with opened(self.engine) as connection:
            rows = connection.execute(query).all()
            return [
                (_standing(row), alert)
                for row, alert in zip(rows, with_history(connection, rows), strict=True)
            ]

    def published(self, versions: Mapping[str, int]) -> None:
        """Kafka has acknowledged these alerts in these versions."""
        with opened(self.engine, writes=True) as connection:
            for alert_id, version in sorted(versions.items()):
                connection.execute(
                    update(ALERTS)
                    .where(ALERTS.c.id == alert_id, ALERTS.c.published < version)
                    .values(published=version)
                )

    def write_alerts(
        self,
        positions: Mapping[Place, Position],
        kept: Iterable[Kept],
        beds: Iterable[Bed],
        moved: Sequence[Standing],
        now_ms: int,
    ) -> list[Standing]:
        """Write what the alert engine did, with how far it has read.

        Args:
            positions: How far each partition was read.
            kept: Predictions for the history.
            beds: Beds whose memory changed.
            moved: Alerts that changed.
            now_ms: Wall clock.

        Returns:
            Alerts that somebody else had changed meanwhile, as they are in the database: this
            ward's changes of them were not made.

        Raises:
            Fenced: The partitions are another ward's now; nothing was written.
        """
        newest: dict[tuple[str, int, str, str], Kept] = {}
        for prediction in kept:
            held = newest.get(prediction.key)
            if held is None or prediction.source_offset >= held.source_offset:
                newest[prediction.key] = prediction
        forestalled: list[Standing] = []
        with opened(self.engine, writes=True) as connection:
            self._advance(connection, "alerts", positions)
            bulk.upsert(connection, PREDICTIONS, [_columns(newest[key]) for key in sorted(newest)])
            states = [
                (bed.bed_id, bed.partition, now_ms, _BED_OF.encode(bed))
                for bed in sorted(beds, key=lambda bed: bed.bed_id)
            ]
            bulk.upsert(connection, BEDS, states)
            for alert in moved:
                if not _write_alert(connection, alert):
                    row = connection.execute(select(ALERTS).where(ALERTS.c.id == alert.id)).one()
                    forestalled.append(_standing(row))
        return forestalled

    def stored(self, keys: Iterable[Key]) -> dict[Key, Minute]:
        """Trend rows that are there, of those asked for."""
        wanted = sorted(keys)
        if not wanted:
            return {}
        with opened(self.engine) as connection:
            return {
                (row[0], row[1], row[2]): Minute(*row[3:])
                for row in bulk.trend_rows(connection, wanted)
            }

    def write_trends(
        self, positions: Mapping[Place, Position], rows: Sequence[tuple[Key, Minute]]
    ) -> None:
        """Write trend rows with how far was read. Raises Fenced: nothing was written."""
        with opened(self.engine, writes=True) as connection:
            self._advance(connection, "trends", positions)
            bulk.upsert(
                connection,
                TRENDS,
                [(*key, m.n, m.total, m.low, m.high, m.last, m.last_ms, m.seen) for key, m in rows],
            )

    def _advance(
        self, connection: Connection, book: Book, positions: Mapping[Place, Position]
    ) -> None:
        for (topic, partition), position in sorted(positions.items()):
            done = connection.execute(
                update(OFFSETS)
                .where(*_at(book, topic, partition), OFFSETS.c.owner == self.token)
                .values(
                    next_offset=position.next_offset,
                    last_ms=position.last_ms,
                    generation=position.generation,
                )
            )
            if done.rowcount != 1:
                raise Fenced(f"{book}: another ward has {topic} {partition}")


def _at(book: Book, topic: str, partition: int) -> tuple[Any, ...]:
    return (OFFSETS.c.book == book, OFFSETS.c.topic == topic, OFFSETS.c.partition == partition)


def _write_alert(connection: Connection, alert: Standing) -> bool:
    """Insert or update one alert with its changes; False where another writer was first.

    An insert may find the alert there: it was written before, and only the word of it was lost.
    """
    values: dict[str, Any] = {
        "state": alert.state,
        "updated_ms": alert.updated_ms,
        "due_ms": alert.due_ms,
        "version": alert.version,
    }
    if alert.written == 0:
        if connection.execute(select(ALERTS.c.id).where(ALERTS.c.id == alert.id)).first():
            return False
        connection.execute(
            insert(ALERTS).values(
                id=alert.id,
                bed_id=alert.bed_id,
                case_id=alert.case_id,
                partition=alert.partition,
                kind=alert.kind,
                priority=alert.priority,
                opened_ms=alert.opened_ms,
                value=alert.value,
                threshold=alert.threshold,
                policy=alert.policy,
                published=0,
                **values,
            )
        )
    else:
        done = connection.execute(
            update(ALERTS)
            .where(ALERTS.c.id == alert.id, ALERTS.c.version == alert.written)
            .values(**values)
        )
        if done.rowcount != 1:
            return False
    first = alert.version - len(alert.changes) + 1
    connection.execute(
        insert(CHANGES),
        [
            {
                "alert_id": alert.id,
                "version": first + i,
                "ms": change.ms,
                "by": change.by,
                "action": change.action,
                "reason": change.reason,
            }
            for i, change in enumerate(alert.changes)
        ],
    )
    return True


def _standing(row: Any) -> Standing:
    return Standing(
        id=row.id,
        bed_id=row.bed_id,
        case_id=row.case_id,
        partition=row.partition,
        kind=row.kind,
        priority=row.priority,
        state=row.state,
        opened_ms=row.opened_ms,
        updated_ms=row.updated_ms,
        value=row.value,
        threshold=row.threshold,
        due_ms=row.due_ms,
        policy=row.policy,
        version=row.version,
        written=row.version,
    )


def _columns(row: Kept) -> tuple[Any, ...]:
    return (*row.key, row.generation, row.source_offset, row.body)
