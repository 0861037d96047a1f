"""Many rows in one statement: what SQLAlchemy does row by row costs ten times as much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table, text
from sqlalchemy.types import BigInteger, Double, Integer, LargeBinary, SmallInteger

from app.ward.tables import PREDICTIONS, TRENDS
from app.ward.trends import Key

_ARRAYS: Final = (
    (SmallInteger, "smallint[]"),
    (BigInteger, "bigint[]"),
    (Integer, "integer[]"),
    (Double, "double precision[]"),
    (LargeBinary, "bytea[]"),
)


def upsert(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows (values in the table's order of columns) or replace those of the same key.

    One statement a batch on PostgreSQL, one prepared statement on SQLite: a row costs microseconds.
    """
    if not rows:
        return
    names = [column.name for column in table.columns]
    keys = [column.name for column in table.primary_key.columns]
    sets = ", ".join(f'"{n}" = excluded."{n}"' for n in names if n not in keys)
    conflict = f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"
    if table is PREDICTIONS:
        conflict += (
            " WHERE (excluded.generation, excluded.source_offset)"
            " >= (predictions.generation, predictions.source_offset)"
        )
    quoted = ", ".join(f'"{name}"' for name in names)
    if connection.dialect.name == "postgresql":
        arrays = ", ".join(f"CAST(:{c.name} AS {_array(c.type)})" for c in table.columns)
        statement = f"INSERT INTO {table.name} ({quoted}) SELECT * FROM unnest({arrays}) {conflict}"
        columns = zip(names, map(list, zip(*rows, strict=True)), strict=True)
        connection.execute(text(statement), dict(columns))
        return
    marks = ", ".join("?" * len(names))
    statement = f"INSERT INTO {table.name} ({quoted}) VALUES ({marks}) {conflict}"
    cursor = connection.connection.cursor()
    try:
        cursor.executemany(statement, rows)
    finally:
        cursor.close()


def _array(kind: Any) -> str:
    return next((name for type_, name in _ARRAYS if isinstance(kind, type_)), "text[]")


def trend_rows(connection: Connection, keys: Sequence[Key]) -> list[tuple[Any, ...]]:
    """The rows of these keys that exist, columns in the table's order."""
    names = ", ".join(column.name for column in TRENDS.columns)
    if connection.dialect.name == "postgresql":
        beds, signals, minutes = (list(column) for column in zip(*keys, strict=True))
        query = text(
            f"SELECT {names} FROM trends JOIN unnest(CAST(:beds AS text[]),"
            " CAST(:signals AS text[]), CAST(:minutes AS bigint[]))"
            " AS wanted (bed_id, signal, minute_ms) USING (bed_id, signal, minute_ms)"
        )
        found = connection.execute(query, {"beds": beds, "signals": signals, "minutes": minutes})
        return [tuple(row) for row in found]
    cursor = connection.connection.cursor()
    rows: list[tuple[Any, ...]] = []
    query_one = f"SELECT {names} FROM trends WHERE bed_id = ? AND signal = ? AND minute_ms = ?"
    try:
        for key in keys:
            rows.extend(cursor.execute(query_one, key).fetchall())
    finally:
        cursor.close()
    return rows
