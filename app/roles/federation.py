"""The server and the hospitals of a federation, as roles that start, wait and drain."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.lifecycle import Deadline, Health
from app.settings import BadSetting, Settings

if TYPE_CHECKING:
    from models.federated.course import Plan
    from models.federated.hub import Hub
    from models.federated.site import Site

_LINGER_S = 12.0
"""Longest time in which the sites hear that all rounds are done."""


class FederateServe:
    """The server of a federation; finishes when all rounds are done."""

    name = "federate"

    def __init__(
        self,
        settings: Settings,
        certificates: Path,
        folder: Path,
        plan: Plan,
        fresh: int | None = None,
    ) -> None:
        self._settings, self._certificates, self._folder = settings, certificates, folder
        self._plan, self._fresh = plan, fresh
        self._open = AsyncExitStack()
        self._hub: Hub | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken, BadSetting for another plan's state."""
        from models.federated import model
        from models.federated.certificates import read_roster
        from models.federated.course import Course
        from models.federated.hub import Hub
        from models.federated.service import Service

        self._network, _ = model.base(self._settings.model, self._fresh)
        roster = read_roster(self._certificates / "roster.json")
        informed = None if self._fresh is None else partial(model.informed, self._network)
        try:
            course = Course(self._plan, model.flat(self._network), informed)
            self._hub = Hub(self._folder, roster, course, time.monotonic())
        except ValueError as error:
            raise BadSetting(f"federate serve: {error}") from error
        self._service = Service(
            self._hub, self._certificates, host=self._settings.host, port=self._settings.port
        )
        await self._open.enter_async_context(self._service.listening())
        typer.echo(f"ready https://{self._settings.host}:{self._service.port}")

    async def wait(self) -> None:
        """Return when all rounds are done, the model is written and the sites have heard so."""
        from models.federated import model

        assert self._hub is not None
        await self._service.finished()
        path, course = self._folder / "model.safetensors", self._hub.course
        status = {**self._hub.status(), "privacy": self._hub.spent()}
        model.save(
            self._network,
            self._hub.model,
            self._settings.model,
            path,
            status,
            curves=course.curves,
            spread=course.spread,
        )
        typer.echo(f"model {path}")
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._service.all_told()

    async def drain(self, deadline: Deadline) -> None:
        """Close; all that was accepted is on disk already."""
        await self._open.aclose()

    def health(self) -> Mapping[str, Health]:
        """Where the federation is."""
        if self._hub is None:
            return {"federation": Health(False, "starting")}
        said = self._hub.status()
        return {"federation": Health(True, f"{said['succeeded']} of {said['rounds']} rounds")}


class FederateJoin:
    """One hospital; finishes when all rounds are done."""

    name = "federate-join"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._done: asyncio.Future[None] = asyncio.Future()
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def start(self) -> None:
        """Begin to ask for rounds, in a thread: training takes long."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def wait(self) -> None:
        """Return when all rounds are done; raise what ended the site."""
        await asyncio.shield(self._done)

    async def drain(self, deadline: Deadline) -> None:
        """Stop asking; a site that trains now is a dropout of the round."""
        self._site.stop()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, deadline.left_s)

    def health(self) -> Mapping[str, Health]:
        """Whether the site still takes part."""
        return {"site": Health(not self._done.done(), f"{self._site.rounds} rounds")}

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            self._site.run()
        except Exception as error:
            failure = error

        def tell() -> None:
            if failure is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(failure)

        self._loop.call_soon_threadsafe(tell)
