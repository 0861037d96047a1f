"""Offsets, predictions, trends, beds, alerts and what was done to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "offsets",
        sa.Column("book", sa.String, primary_key=True),
        sa.Column("topic", sa.String, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
    )
    op.create_table(
        "predictions",
        sa.Column("bed_id", sa.String, primary_key=True),
        sa.Column("ts_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("case_id", sa.String, primary_key=True),
        sa.Column("model_version", sa.String, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("source_offset", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("predictions_by_time", "predictions", ["ts_ms"])
    op.create_table(
        "trends",
        sa.Column("bed_id", sa.String, primary_key=True),
        sa.Column("signal", sa.String, primary_key=True),
        sa.Column("minute_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("n", sa.SmallInteger, nullable=False),
        sa.Column("total", sa.Double, nullable=False),
        sa.Column("low", sa.Double, nullable=False),
        sa.Column("high", sa.Double, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("trends_by_time", "trends", ["minute_ms"])
    op.create_table(
        "ward_beds",
        sa.Column("bed_id", sa.String, primary_key=True),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_index("ward_beds_by_partition", "ward_beds", ["partition"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("bed_id", sa.String, nullable=False),
        sa.Column("case_id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("priority", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("opened_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("due_ms", sa.BigInteger),
        sa.Column("policy", sa.String, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("published", sa.Integer, nullable=False),
    )
    op.create_index("alerts_by_bed", "alerts", ["bed_id", "opened_ms"])
    op.create_index("alerts_by_update", "alerts", ["updated_ms"])
    unpublished = sa.text("version > published")
    op.create_index(
        "alerts_unpublished",
        "alerts",
        ["partition"],
        postgresql_where=unpublished,
        sqlite_where=unpublished,
    )
    still_open = sa.text("state <> 'closed'")
    op.create_index(
        "alerts_one_open",
        "alerts",
        ["bed_id", "case_id", "kind"],
        unique=True,
        postgresql_where=still_open,
        sqlite_where=still_open,
    )
    op.create_table(
        "alert_changes",
        sa.Column("alert_id", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("ms", sa.BigInteger, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("reason", sa.String),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("alert_changes", "alerts", "ward_beds", "trends", "predictions", "offsets"):
        op.drop_table(table)
