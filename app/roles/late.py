"""A role that is made when it starts: imports are heavy, and needs may not be known before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from app.lifecycle import Deadline, Health, Role

log = structlog.get_logger(__name__)


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


class Together:
    """Roles that start and drain side by side.

    Args:
        roles: The roles.
    """

    name = "together"

    def __init__(self, roles: Sequence[Role]) -> None:
        self._roles = roles

    async def start(self) -> None:
        """Start all; the first that fails stops the others' start."""
        starts = [asyncio.create_task(role.start()) for role in self._roles]
        try:
            await asyncio.gather(*starts)
        finally:
            for task in starts:
                task.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def wait(self) -> None:
        """Return when all have finished; raise what the first failed with."""
        waits = [asyncio.create_task(role.wait()) for role in self._roles]
        try:
            await asyncio.gather(*waits)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def drain(self, deadline: Deadline) -> None:
        """Drain one after the other, in the order given: who writes before who reads."""
        for role in self._roles:
            began_s = deadline.left_s
            try:
                async with asyncio.timeout(max(0.1, deadline.left_s)):
                    await role.drain(deadline)
            except Exception as error:
                log.error("drain failed", role=role.name, error=repr(error))
            log.debug("drained", role=role.name, seconds=round(began_s - deadline.left_s, 2))

    def health(self) -> Mapping[str, Health]:
        """All parts of all roles."""
        return {
            f"{role.name} {name}": state
            for role in self._roles
            for name, state in role.health().items()
        }
