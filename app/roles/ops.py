"""Metrics and health of a process that has no API: a role beside the one it watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from app.lifecycle import Deadline, Health
from app.ops import Ops
from app.settings import BadSetting, Settings


class Operations:
    """Serves `/metrics` and `/health` on `ops_port`.

    Args:
        settings: `host` and `ops_port`.
        metrics: Prometheus text and its content type.
        parts: Health of what is watched.
    """

    name = "ops"

    def __init__(
        self,
        settings: Settings,
        metrics: Callable[[], tuple[bytes, str]],
        parts: Callable[[], Mapping[str, Health]],
    ) -> None:
        self._settings = settings
        self._ops = Ops(settings.host, settings.ops_port, metrics, parts)

    async def start(self) -> None:
        """Listen. Raises BadSetting where the address cannot be had."""
        try:
            await self._ops.start()
        except OSError as error:
            raise BadSetting(
                f"ops_port: {self._settings.ops_port} is not allowed: {error.strerror}"
            ) from error

    async def wait(self) -> None:
        """Never returns."""
        await asyncio.Event().wait()

    async def drain(self, deadline: Deadline) -> None:
        """Stop listening."""
        await self._ops.stop()

    def health(self) -> Mapping[str, Health]:
        """Nothing of its own."""
        return {}
