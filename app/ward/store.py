"""What readers ask of the database, and what a person does to an alert. Synchronous: call it in a
thread.

The ward writes with `ledger`; both change an alert only by compare-and-set on its version.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Engine, Row, Select, and_, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from app.ward import database
from app.ward.actions import Action, StateConflict, UnknownAlert, answer
from app.ward.tables import ALERTS, CHANGES, NO_CASE, PREDICTIONS, TRENDS
from streaming.messages import Alert, AlertChange, AlertState, Prediction

__all__ = ["Action", "StateConflict", "Store", "UnknownAlert"]

_PREDICTION = msgspec.json.Decoder(Prediction)
MINUTE_MS = 60_000
MOST_PREDICTIONS = 10_000
MOST_ALERTS = 10_000
MOST_POINTS = 20_000
"""Of one signal's trend."""


class Store:
    """The database, as `api` needs it.

    Thread-safe. Every method raises DatabaseGone while it does not answer.
    """

    def __init__(self, database_url: str) -> None:
        """Open nothing yet. Raises database.BadDatabase."""
        self._engine = database.open_engine(database_url)

    def close(self) -> None:
        """Close all connections; may be called twice."""
        self._engine.dispose()

    def ping(self) -> None:
        """Raise DatabaseGone or NotMigrated unless the database can be used."""
        with self._connection() as connection:
            database.require_schema(connection)

    def predictions(
        self,
        bed_id: str,
        from_ms: int | None = None,
        to_ms: int | None = None,
        limit: int = 1000,
    ) -> list[Prediction]:
        """The bed's newest `limit` predictions from_ms <= ts_ms <= to_ms, ascending."""
        table = PREDICTIONS
        query = select(table.c.body).where(table.c.bed_id == bed_id)
        if from_ms is not None:
            query = query.where(table.c.ts_ms >= _fitting(from_ms))
        if to_ms is not None:
            query = query.where(table.c.ts_ms <= _fitting(to_ms))
        query = query.order_by(table.c.ts_ms.desc(), table.c.source_offset.desc())
        return [_unpack(row.body) for row in self._rows(query.limit(min(limit, MOST_PREDICTIONS)))][
            ::-1
        ]

    def latest(self, since_ms: int = 0) -> dict[str, Prediction]:
        """The newest prediction of each bed that has one not older than `since_ms`."""
        table = PREDICTIONS
        newest = (
            select(table.c.bed_id, func.max(table.c.ts_ms).label("ts_ms"))
            .where(table.c.ts_ms >= since_ms)
            .group_by(table.c.bed_id)
            .subquery()
        )
        query = (
            select(table.c.bed_id, table.c.body)
            .join(newest, and_(table.c.bed_id == newest.c.bed_id, table.c.ts_ms == newest.c.ts_ms))
            .order_by(table.c.generation, table.c.source_offset)
        )
        return {row.bed_id: _unpack(row.body) for row in self._rows(query)}

    def trends(
        self, bed_id: str, signals: Sequence[str], from_ms: int, to_ms: int, step_s: int = 60
    ) -> dict[str, list[tuple[int, float, float, float]]]:
        """Mean, minimum and maximum of each signal in steps of whole minutes.

        Args:
            bed_id: The bed.
            signals: Names of `models.signals`; each is a key of the answer, also where nothing was
                measured.
            from_ms: First minute, inclusive.
            to_ms: Last minute, inclusive.
            step_s: Width of a step; rounded up to whole minutes, the grain of what is kept.

        Returns:
            For each signal (start of the step in ms, mean, minimum, maximum), ascending; steps
            without a value are left out. The newest MOST_POINTS steps at most.
        """
        step_ms = _fitting(-(-max(step_s, 60) // 60) * MINUTE_MS)
        from_ms, to_ms = _fitting(from_ms), _fitting(to_ms)
        table = TRENDS
        step = (table.c.minute_ms - table.c.minute_ms % step_ms).label("step")
        query = (
            select(
                table.c.signal,
                step,
                (func.sum(table.c.total) / func.sum(table.c.n)).label("mean"),
                func.min(table.c.low).label("low"),
                func.max(table.c.high).label("high"),
            )
            .where(table.c.bed_id == bed_id, table.c.signal.in_(list(signals)))
            .where(table.c.minute_ms >= from_ms - from_ms % MINUTE_MS, table.c.minute_ms <= to_ms)
            .group_by(table.c.signal, step)
            .order_by(step.desc())
            .limit(MOST_POINTS * max(1, len(signals)))
        )
        points_of: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in signals}
        for row in self._rows(query):
            points_of[row.signal].append((int(row.step), row.mean, row.low, row.high))
        return {name: points[:MOST_POINTS][::-1] for name, points in points_of.items()}

    def alerts(
        self,
        state: AlertState | Literal["active"] | None = None,
        bed_id: str | None = None,
        limit: int = 1000,
    ) -> list[Alert]:
        """Alerts with their history, newest first. `active` is every state but closed."""
        query = select(ALERTS)
        if state == "active":
            query = query.where(ALERTS.c.state != "closed")
        elif state is not None:
            query = query.where(ALERTS.c.state == state)
        if bed_id is not None:
            query = query.where(ALERTS.c.bed_id == bed_id)
        query = query.order_by(ALERTS.c.opened_ms.desc(), ALERTS.c.id).limit(
            min(limit, MOST_ALERTS)
        )
        with self._connection() as connection:
            return with_history(connection, connection.execute(query).all())

    def alert(self, alert_id: str) -> Alert:
        """One alert. Raises UnknownAlert."""
        with self._connection() as connection:
            return _one(connection, alert_id)

    def act(
        self,
        alert_id: str,
        action: Action,
        by: str,
        reason: str | None = None,
        minutes: int | None = None,
        *,
        now_ms: int,
    ) -> Alert:
        """Do what a person does to an alert and return its new state.

        Args:
            alert_id: The alert.
            action: `acknowledge`, `snooze` or `escalate`.
            by: Who did it.
            reason: Why.
            minutes: Length of a snooze, 1 to `policy.SNOOZE_MOST_MINUTES`; default
                `policy.SNOOZE_MINUTES`.
            now_ms: The time of it.

        Raises:
            UnknownAlert: There is no such alert.
            StateConflict: Its state does not allow this.
            ValueError: The minutes are out of range, or given for another action; or a
                text holds what no database keeps.
        """
        if "\0" in by or "\0" in (reason or ""):
            raise ValueError("a text may not hold the character NUL")
        while True:
            with self._connection(writes=True) as connection:
                row = connection.execute(
                    select(ALERTS).where(ALERTS.c.id == alert_id)
                ).one_or_none()
                if row is None:
                    raise UnknownAlert(alert_id)
                change = answer(row.state, action, minutes, now_ms)
                done = connection.execute(
                    update(ALERTS)
                    .where(ALERTS.c.id == alert_id, ALERTS.c.version == row.version)
                    .values(
                        state=change.state,
                        due_ms=change.due_ms,
                        updated_ms=max(now_ms, row.updated_ms),
                        version=row.version + 1,
                    )
                )
                if done.rowcount != 1:
                    continue  # the ward or another api was faster: look again at what it left
                connection.execute(
                    insert(CHANGES).values(
                        alert_id=alert_id,
                        version=row.version + 1,
                        ms=now_ms,
                        by=by,
                        action=action,
                        reason=reason,
                    )
                )
                return _one(connection, alert_id)

    def _rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with self._connection() as connection:
            return connection.execute(query).all()

    @contextmanager
    def _connection(self, writes: bool = False) -> Iterator[Connection]:
        with opened(self._engine, writes) as connection:
            yield connection


@contextmanager
def opened(engine: Engine, writes: bool = False) -> Iterator[Connection]:
    """A connection in a transaction of its own. Raises DatabaseGone when the database is away."""
    try:
        with engine.execution_options(writes=writes).begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        if database.gone(error):
            raise database.DatabaseGone("the database does not answer") from error
        raise


def with_history(connection: Connection, rows: Sequence[Row[Any]]) -> list[Alert]:
    """Rows of `alerts` as messages, each with its changes in order."""
    changes: dict[str, list[AlertChange]] = {row.id: [] for row in rows}
    ids = list(changes)
    for start in range(0, len(ids), 500):
        query = (
            select(CHANGES)
            .where(CHANGES.c.alert_id.in_(ids[start : start + 500]))
            .order_by(CHANGES.c.alert_id, CHANGES.c.version)
        )
        for row in connection.execute(query):
            changes[row.alert_id].append(AlertChange(row.ms, row.by, row.action, row.reason))
    return [
        Alert(
            id=row.id,
            bed_id=row.bed_id,
            case_id=None if row.case_id == NO_CASE else row.case_id,
            kind=row.kind,
            priority=row.priority,
            state=row.state,
            opened_ms=row.opened_ms,
            updated_ms=row.updated_ms,
            value=row.value,
            threshold=row.threshold,
            history=changes[row.id],
        )
        for row in rows
    ]


def _one(connection: Connection, alert_id: str) -> Alert:
    rows = connection.execute(select(ALERTS).where(ALERTS.c.id == alert_id)).all()
    if not rows:
        raise UnknownAlert(alert_id)
    return with_history(connection, rows)[0]


def _fitting(number: int) -> int:
    """A number that the database's integers hold; further out there is nothing to be found."""
    return max(-(1 << 62), min(number, 1 << 62))


def _unpack(body: bytes) -> Prediction:
    return _PREDICTION.decode(zlib.decompress(body))
