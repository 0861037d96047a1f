"""`vitalstream api`: follows Kafka into the newest state of the ward, and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog
import uvicorn

from app import card, preflight
from app.api.application import application
from app.api.feed import Feed
from app.api.problems import Problem
from app.api.services import Services
from app.api.stream import Broadcaster
from app.api.view import LatestView
from app.lifecycle import Deadline, Health
from app.metrics import Metrics
from app.settings import BadSetting, Settings
from app.ward import database
from app.ward.database import DatabaseGone, NotMigrated
from app.ward.store import MOST_ALERTS, Store
from streaming.messages import Alert, Prediction
from streaming.producer import KafkaError, Producer
from streaming.refusals import TOO_MANY_BEDS

log = structlog.get_logger(__name__)

SWEEP_S: Final = 1.0
PING_S: Final = 5.0
ACK_S: Final = 10.0
DAY_MS: Final = 86_400_000


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: `lifecycle.serve` is the only place that has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Api:
    """The role.

    Args:
        settings: Kafka, the database, where to listen, the token.
        metrics: Of this process; served at `/metrics`.
        everything: Health of the whole process, where it has more roles than this one.
    """

    name = "api"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        everything: Any = None,
    ) -> None:
        if settings.kafka is None:
            raise BadSetting("kafka: nothing is not allowed: HOST:PORT, comma-separated")
        preflight.token(settings)
        preflight.model(settings)
        self._settings = settings
        self._servers = settings.kafka
        self._metrics = metrics
        self._broadcaster = Broadcaster(readers=metrics.readers, conflated=metrics.conflated)
        self.view = LatestView(
            settings.stale_after_ms,
            self._broadcaster.predicted,
            self._broadcaster.changed,
            self._broadcaster.alerted,
            self._broadcaster.forgotten,
            lambda: metrics.skipped(TOO_MANY_BEDS),
            settings.max_beds,
        )
        self._feed = Feed(self._servers, self.view, metrics)
        self._store = Store(settings.database_url)
        self._producer = Producer(self._servers, client_id="vitalstream-api", linger_ms=0)
        self._services = Services(
            view=self.view,
            broadcaster=self._broadcaster,
            store=self._store,
            metrics=metrics,
            publish=self._publish,
            health=everything or self.health,
            card=self._card,
        )
        if everything is None:
            metrics.watch(self.health)
        self._adhoc: Any = None
        self._model: Any = None
        self._adhoc_state = Health(True, "not loaded yet")
        self._database = Health(False, "not asked yet")
        self._tasks: list[asyncio.Task[None]] = []
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = settings.port

    @property
    def url(self) -> str:
        """Where the API listens."""
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def start(self) -> None:
        """Listen, connect, catch up with the ward as it is, serve.

        Raises:
            BadSetting: The address cannot be had.
            KafkaError: No broker answers.
        """
        listener = preflight.listener(self._settings)
        self.port = listener.getsockname()[1]
        try:
            await self._producer.start()
            await self._ping()
            await self._feed.start(*await self._recalled())
        except BaseException:
            listener.close()
            raise
        app = application(self._services, self._settings.token)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="httptools",
            server_header=False,
            timeout_graceful_shutdown=2,
            backlog=2048,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[listener]), name="api server"
        )
        self._tasks = [
            asyncio.create_task(work, name=f"api {name}")
            for name, work in (
                ("feed", self._feed.run()),
                ("sweep", self._sweep()),
                ("ping", self._pings()),
                ("model", self._load()),
            )
        ]
        log.info("api listens", url=self.url)

    async def wait(self) -> None:
        """Raise when a part has failed."""
        assert self._serving is not None
        done, _ = await asyncio.wait(
            {self._serving, *self._tasks[:3]}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        raise RuntimeError("the api stopped by itself")

    async def drain(self, deadline: Deadline) -> None:
        """End the streams, finish the requests, part from Kafka."""
        self._broadcaster.close()
        server, self._server = self._server, None
        if server is not None and self._serving is not None:
            server.should_exit = True
            await asyncio.wait({self._serving}, timeout=min(3.0, deadline.left_s))
            server.force_exit = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        adhoc, self._adhoc = self._adhoc, None
        self._services.adhoc = None
        if adhoc is not None:
            await adhoc.stop()
        try:
            async with asyncio.timeout(max(0.1, deadline.left_s)):
                await self._producer.stop()
        except (KafkaError, TimeoutError) as error:
            log.warning("kafka did not part cleanly", error=repr(error))
        self._store.close()

    def health(self) -> Mapping[str, Health]:
        """`stream`, `database` and `model`."""
        return {
            "stream": self._feed.health(),
            "database": self._database,
            "model": self._adhoc_state,
        }

    async def _publish(self, topic: str, key: str, value: bytes | None) -> None:
        try:
            future = await self._producer.send(topic, key.encode(), value)
            async with asyncio.timeout(ACK_S):
                await asyncio.shield(future)
        except (KafkaError, TimeoutError) as error:
            log.warning("not published", topic=topic, error=repr(error))
            raise Problem(503, "kafka does not answer", {"retry-after": "5"}) from error
        self._metrics.message(topic, "published")

    async def _recalled(self) -> tuple[list[Prediction], list[Alert]]:
        """The beds of the last day and the alerts that stand, from the database: what Kafka's end
        no longer holds.
        """
        if not self._database.ok:
            return [], []
        now_ms = time.time_ns() // 1_000_000
        try:
            latest = await asyncio.to_thread(self._store.latest, now_ms - DAY_MS)
            alerts = await asyncio.to_thread(self._store.alerts, "active", None, MOST_ALERTS)
        except DatabaseGone:
            return [], []
        return list(latest.values()), alerts

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.view.sweep(time.time_ns() // 1_000_000)

    async def _pings(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await self._ping()

    async def _ping(self) -> None:
        try:
            if self._settings.database_url.startswith("sqlite") and not self._database.ok:
                await asyncio.to_thread(database.migrate, self._settings.database_url)
            await asyncio.to_thread(self._store.ping)
            self._database = Health(True)
        except DatabaseGone:
            self._database = Health(False, "does not answer")
        except NotMigrated as error:
            self._database = Health(False, str(error))

    async def _load(self) -> None:
        """The model for `POST /v1/predictions`, in the background: the rest is served meanwhile."""
        from importlib import import_module

        settings = self._settings
        self._adhoc_state = Health(True, "being loaded")
        try:
            predictor = await asyncio.to_thread(import_module, "models.predictor")
            device = settings.devices.split(",")[0].strip()
            model = await asyncio.to_thread(
                predictor.load, settings.model, device, settings.threads
            )
            adhoc = import_module("streaming.adhoc").AdHoc(model)
            await adhoc.start()
        except Exception as error:
            log.error("the api has no model", error=repr(error))
            self._adhoc_state = Health(False, "could not be loaded")
            return
        self._adhoc = self._services.adhoc = adhoc
        self._model = model
        self._adhoc_state = Health(True, f"{model.name} {model.version}")
        gc.collect()
        gc.freeze()

    def _card(self) -> dict[str, Any]:
        found, model = card.read(self._settings.model), self._model
        found["loaded"] = (
            {}
            if model is None
            else {"model": model.name, "model_version": model.version, "device": model.device}
        )
        return found
