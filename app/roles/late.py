"""A role that is made when it starts: imports are heavy, and needs may not be known before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from app.lifecycle import Deadline, Health, Role


class Late:
    """Stands for a role until it starts, then is that role.

    Args:
        name: Of the role.
        make: Makes the role; called on the loop.
        prepare: Imports what it needs; called in a thread, so that signals are heard meanwhile.
    """

    def __init__(
        self, name: str, make: Callable[[], Role], prepare: Callable[[], Any] | None = None
    ) -> None:
        self.name = name
        self._make = make
        self._prepare = prepare
        self.role: Role | None = None

    async def start(self) -> None:
        """Import, make and start the role."""
        if self._prepare is not None:
            await asyncio.to_thread(self._prepare)
        self.role = self._make()
        await self.role.start()

    async def wait(self) -> None:
        """As the role does."""
        if self.role is not None:
            await self.role.wait()

    async def drain(self, deadline: Deadline) -> None:
        """As the role does; nothing where it was never made."""
        if self.role is not None:
            await self.role.drain(deadline)

    def health(self) -> Mapping[str, Health]:
        """As the role says; not ready before it is made."""
        if self.role is None:
            return {self.name: Health(False, "starting")}
        return self.role.health()
