"""Alembic's entry: the connection is handed in by `app.ward.database.migrate`."""

from __future__ import annotations

from alembic import context

from app.ward.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
