"""`vitalstream migrate`: bring the database to this release's schema."""

from __future__ import annotations

import asyncio

from app.settings import Settings
from app.ward import database


async def migrate(settings: Settings) -> str:
    """Migrate the database of the settings.

    Returns:
        The revision it has now.

    Raises:
        database.BadDatabase: The URL is not one of SQLite or PostgreSQL.
        database.DatabaseGone: It does not answer.
    """
    return await asyncio.to_thread(database.migrate, settings.database_url)
