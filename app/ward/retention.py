"""Deleting what is older than the retention, in batches small enough to disturb nobody."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Engine, Table, delete, select, tuple_

from app.ward.store import opened
from app.ward.tables import ALERTS, BEDS, CHANGES, PREDICTIONS, TRENDS

DAY_MS: Final = 86_400_000
BATCH: Final = 2_000
_BY_TIME: Final = (
    (TRENDS, TRENDS.c.minute_ms),
    (PREDICTIONS, PREDICTIONS.c.ts_ms),
)


def purge(
    engine: Engine, before_ms: int, batch: int = BATCH, silent_before_ms: int | None = None
) -> int:
    """Delete one batch of each table's rows from before a time; returns how many went, 0 when done.

    Alerts go when they are closed and were last touched before it, with what was done to them.
    What the engine remembers of a bed goes when nothing was said of it since `silent_before_ms`
    (default: the same time) and no alert of it stands. Raises DatabaseGone.
    """
    gone = sum(_purge_rows(engine, table, time, before_ms, batch) for table, time in _BY_TIME)
    if silent_before_ms is None:
        silent_before_ms = before_ms
    standing = select(ALERTS.c.bed_id).where(ALERTS.c.state != "closed")
    calm = BEDS.c.bed_id.not_in(standing)
    gone += _purge_rows(engine, BEDS, BEDS.c.seen_ms, silent_before_ms, batch, calm)
    old = (
        select(ALERTS.c.id)
        .where(ALERTS.c.updated_ms < before_ms, ALERTS.c.state == "closed")
        .order_by(ALERTS.c.updated_ms)
        .limit(batch)
    )
    with opened(engine, writes=True) as connection:
        ids = [row.id for row in connection.execute(old)]
        for start in range(0, len(ids), 500):
            chunk = ids[start : start + 500]
            connection.execute(delete(CHANGES).where(CHANGES.c.alert_id.in_(chunk)))
            connection.execute(delete(ALERTS).where(ALERTS.c.id.in_(chunk)))
    return gone + len(ids)


def _purge_rows(
    engine: Engine, table: Table, time: Any, before_ms: int, batch: int, *only: Any
) -> int:
    keys = list(table.primary_key.columns)
    with opened(engine, writes=True) as connection:
        rows = connection.execute(select(*keys).where(time < before_ms, *only).limit(batch)).all()
        for start in range(0, len(rows), 500):
            chunk = [tuple(row) for row in rows[start : start + 500]]
            key = tuple_(*keys) if len(keys) > 1 else keys[0]
            wanted = chunk if len(keys) > 1 else [row[0] for row in chunk]
            connection.execute(delete(table).where(key.in_(wanted), time < before_ms, *only))
        return len(rows)
