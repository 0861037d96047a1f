"""`vitalstream run`: the same roles in one process, on the embedded broker or a real one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import structlog

from app import preflight
from app.lifecycle import Deadline, Health, Role
from app.metrics import Metrics
from app.roles.late import Late, Together
from app.settings import BadSetting, Settings

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.05


class Broker:
    """The embedded broker as a role, or the topics of a real one."""

    name = "kafka"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._embedded: Any = None
        self.servers = settings.kafka or ""

    async def start(self) -> None:
        """Start it, or make sure of the topics of the one named. Raises KafkaError."""
        settings = self._settings
        if settings.kafka is not None:
            topics = await asyncio.to_thread(import_module, "streaming.topics")
            await topics.ensure_topics(settings.kafka, settings.partitions, settings.replication)
            return
        module = await asyncio.to_thread(import_module, "streaming.broker")
        self._embedded = module.EmbeddedBroker()
        await self._embedded.start()
        self.servers = self._embedded.servers
        log.info("embedded broker: keeps all in memory, forgets it at exit", kafka=self.servers)

    async def wait(self) -> None:
        """Never returns."""
        await asyncio.Event().wait()

    async def drain(self, deadline: Deadline) -> None:
        """Stop it."""
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await embedded.stop()

    def health(self) -> Mapping[str, Health]:
        """Which broker is in use."""
        return {"kafka": Health(True, "embedded" if self._embedded is not None else "real")}


class Announce:
    """Says where everything is, as soon as the first prediction can be read.

    Args:
        ready: Whether the time has come.
        lines: What to say.
        say: Prints a line.
    """

    name = "ready"

    def __init__(
        self,
        ready: Callable[[], bool],
        lines: Callable[[], Sequence[str]],
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self._ready = ready
        self._lines = lines
        self._say = say
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look(), name=self.name)

    async def wait(self) -> None:
        """Return when it is said."""
        if self._task is not None:
            await asyncio.shield(self._task)
        await asyncio.Event().wait()

    async def drain(self, deadline: Deadline) -> None:
        """Say nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def health(self) -> Mapping[str, Health]:
        """Nothing of its own."""
        return {}

    async def _look(self) -> None:
        while not self._ready():  # noqa: ASYNC110 - what is waited for is a state of many parts
            await asyncio.sleep(LOOK_S)
        with contextlib.suppress(BrokenPipeError):
            for line in self._lines():
                self._say(line)


def roles(settings: Settings, metrics: Metrics) -> Sequence[Role]:
    """All roles of one process, in the order of their start.

    Raises:
        BadSetting: The data folder cannot be written, the address cannot be had, the model is no
            file, or the API would be open to others.
    """
    preflight.token(settings)
    preflight.model(settings)
    preflight.listener(settings).close()
    if settings.token is None:
        settings = settings.model_copy(update={"token": secrets.token_urlsafe(24)})
    if settings.database is None:
        _writable(settings)
    broker = Broker(settings)

    def wired() -> Settings:
        return settings.model_copy(update={"kafka": broker.servers})

    def late(module: str, kind: str, **named: Any) -> Late:
        path = f"app.roles.{module}"

        def make() -> Role:
            role: Role = getattr(import_module(path), kind)(wired(), **named)
            return role

        return Late(module, make, lambda: import_module(path))

    parts: list[Role] = [broker]

    def health() -> dict[str, Health]:
        found: dict[str, Health] = {}
        for part in parts:
            for name, state in part.health().items():
                found[name if name not in found else f"{part.name} {name}"] = state
        return found

    api = late("api", "Api", metrics=metrics, everything=health)
    worker = late("worker", "Worker", telemetry=metrics)
    parts += [late("migrate", "Migrate"), api]
    stream = [worker, late("ward", "Ward", telemetry=metrics)]
    if settings.simulator:
        stream.insert(0, late("simulate", "Simulate", telemetry=metrics))
    # Each joins a group, which takes a broker its time: side by side.
    parts.append(Together(stream))

    def ready() -> bool:
        role = api.role
        if role is None:
            return False
        if getattr(role, "view").predicted_beds:  # noqa: B009 - a role of that module, imported late
            return True
        return not settings.simulator and all(state.ok for state in health().values())

    def lines() -> Sequence[str]:
        url = str(getattr(api.role, "url", ""))
        return (f"ready {url}/#token={settings.token}", f"kafka {broker.servers}")

    metrics.watch(health)
    parts.append(Announce(ready, lines))
    return parts


def _writable(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.data_dir):
            pass
    except OSError as error:
        raise BadSetting(
            f"data_dir: {str(settings.data_dir)!r} is not allowed: {error.strerror}"
        ) from error
