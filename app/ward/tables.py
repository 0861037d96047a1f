"""The tables of the database, on SQLite and on PostgreSQL alike.

`migrations/` makes them; this module is what the code speaks of. Times are milliseconds since the
epoch, UTC. A case that is not known is the empty string, because a key has no nulls.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    text,
)

NO_CASE: Final = ""

METADATA: Final = MetaData()

OFFSETS: Final = Table(
    "offsets",
    METADATA,
    Column("book", String, primary_key=True, doc="What was written from them: alerts, trends."),
    Column("topic", String, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False, doc="First message not yet written."),
    Column("last_ms", BigInteger, nullable=False, doc="Broker time of the one before it."),
    Column("generation", Integer, nullable=False, doc="How often the topic was made anew."),
    Column("owner", String, nullable=False, doc="Ward that may write; another one is late."),
)

PREDICTIONS: Final = Table(
    "predictions",
    METADATA,
    Column("bed_id", String, primary_key=True),
    Column("ts_ms", BigInteger, primary_key=True),
    Column("case_id", String, primary_key=True),
    Column("model_version", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("source_offset", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False, doc="The message's JSON, zlib."),
    Index("predictions_by_time", "ts_ms"),
)

TRENDS: Final = Table(
    "trends",
    METADATA,
    Column("bed_id", String, primary_key=True),
    Column("signal", String, primary_key=True),
    Column("minute_ms", BigInteger, primary_key=True),
    Column("n", SmallInteger, nullable=False, doc="Seconds that count in the sum."),
    Column("total", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("last", Double, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False, doc="Bit i: second i of the minute counts."),
    Index("trends_by_time", "minute_ms"),
    sqlite_with_rowid=False,
)

BEDS: Final = Table(
    "ward_beds",
    METADATA,
    Column("bed_id", String, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("seen_ms", BigInteger, nullable=False, doc="Wall clock when last written."),
    Column("state", LargeBinary, nullable=False, doc="Timers of the alert engine, JSON."),
    Index("ward_beds_by_partition", "partition"),
)

ALERTS: Final = Table(
    "alerts",
    METADATA,
    Column("id", String, primary_key=True),
    Column("bed_id", String, nullable=False),
    Column("case_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("priority", String, nullable=False),
    Column("state", String, nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("value", Double),
    Column("threshold", Double),
    Column("due_ms", BigInteger, doc="When a snooze ends, or nobody having answered counts."),
    Column("policy", String, nullable=False, doc="Version of the policy that opened it."),
    Column("partition", Integer, nullable=False, doc="The bed's, on every topic."),
    Column("version", Integer, nullable=False, doc="Grows by one with each change."),
    Column("published", Integer, nullable=False, doc="Version last acknowledged by Kafka."),
    Index("alerts_by_bed", "bed_id", "opened_ms"),
    Index("alerts_by_update", "updated_ms"),
    Index(
        "alerts_unpublished",
        "partition",
        postgresql_where=text("version > published"),
        sqlite_where=text("version > published"),
    ),
    Index(
        "alerts_one_open",
        "bed_id",
        "case_id",
        "kind",
        unique=True,
        postgresql_where=text("state <> 'closed'"),
        sqlite_where=text("state <> 'closed'"),
    ),
)

CHANGES: Final = Table(
    "alert_changes",
    METADATA,
    Column("alert_id", String, primary_key=True),
    Column("version", Integer, primary_key=True, doc="The alert's version it made."),
    Column("ms", BigInteger, nullable=False),
    Column("by", String, nullable=False),
    Column("action", String, nullable=False),
    Column("reason", String),
)
