"""Starting and stopping: roles start in order, drain in reverse under one shared deadline.

A role is one part of the product that can run as a process of its own. Only `serve` handles
signals.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

DRAIN_S = 9.0
"""All of a shutdown; the promise is 10 s."""


@dataclass(frozen=True, slots=True)
class Health:
    """State of one part: whether it does its work, and why not."""

    ok: bool
    detail: str = ""


class Deadline:
    """One time budget shared by all steps of a shutdown."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - self._clock())


class Role(Protocol):
    """One part of the product."""

    name: str

    async def start(self) -> None:
        """Start; returns when the role has begun its work. Raises what stops it from starting."""

    async def wait(self) -> None:
        """Return when the role has finished by itself (replay), raise when it has failed."""

    async def drain(self, deadline: Deadline) -> None:
        """Refuse, drain, commit, close within the deadline. May be called twice, or after a failed
        start.
        """

    def health(self) -> Mapping[str, Health]:
        """State of each of the role's parts, by name; never patient data."""


async def serve(roles: Sequence[Role], stop: asyncio.Event | None = None) -> None:
    """Run roles until a signal, until one fails (raised after the drain), or until all are done."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started: list[Role] = []
    waits: set[asyncio.Task[None]] = set()
    stopping = asyncio.create_task(stop.wait())
    try:
        for role in roles:
            started.append(role)
            starting = asyncio.create_task(role.start())
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return
            await starting
            waits.add(asyncio.create_task(role.wait(), name=role.name))
        while waits and not stop.is_set():
            done, _ = await asyncio.wait({stopping, *waits}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                waits.discard(task)
                await task
    finally:
        stopping.cancel()
        for task in waits:
            task.cancel()
        await asyncio.gather(stopping, *waits, return_exceptions=True)
        deadline = Deadline(DRAIN_S)
        for role in reversed(started):
            began_s = deadline.left_s
            try:
                async with asyncio.timeout(max(0.1, deadline.left_s)):
                    await role.drain(deadline)
            except Exception as error:
                log.error("drain failed", role=role.name, error=repr(error))
            log.debug("drained", role=role.name, seconds=round(began_s - deadline.left_s, 2))
