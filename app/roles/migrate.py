"""`vitalstream migrate`: bring the database to this release's schema."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from app.lifecycle import Deadline, Health
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


class Migrate:
    """The migration as a role of `run`: done when started."""

    name = "migrate"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def start(self) -> None:
        """Migrate. Raises as `migrate` does."""
        await migrate(self._settings)

    async def wait(self) -> None:
        """Done already."""

    async def drain(self, deadline: Deadline) -> None:
        """Nothing to stop."""

    def health(self) -> Mapping[str, Health]:
        """Nothing of its own."""
        return {}
