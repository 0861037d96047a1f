"""`vitalstream worker`: consume observations, predict, publish predictions."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import structlog

from app.lifecycle import Deadline, Health
from app.settings import BadSetting, Settings, ranks_on_loopback
from streaming.model import Model
from streaming.options import Options
from streaming.pipeline import Pipeline
from streaming.telemetry import SILENT, Telemetry

log = structlog.get_logger(__name__)

SWITCH_S = 0.0002

LoadModel = Callable[[Path | None, str, int], Model]


def _load(path: Path | None, device: str, threads: int) -> Model:
    # Imported late: torch takes seconds, and a bad setting is to be told at once.
    from models import predictor

    model = predictor.load(path, device, threads)
    log.info("model loaded", version=model.version, device=model.device, engine=model.engine)
    return cast("Model", model)


def _spread(path: Path | None, devices: Sequence[str], threads: int) -> Model:
    from models.parallel import serving

    ranks_on_loopback()
    model = serving.SpreadPredictor(path, devices, threads)
    log.info("model loaded", version=model.version, device=model.device, engine=model.engine)
    return cast("Model", model)


class Worker:
    """Windows, batchers and devices of one member of the consumer group.

    Args:
        settings: `kafka` names the cluster; `devices`, `model`, `emit` and the limits are used.
        telemetry: Hears what the stream tells about itself.
        load: Loads the model on a device; default: `models.predictor.load`.
    """

    name = "worker"

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry = SILENT,
        load: LoadModel | None = None,
    ) -> None:
        if settings.kafka is None:
            raise BadSetting("kafka: None is not allowed: HOST:PORT, comma-separated")
        if settings.spread_experts and "," not in settings.devices:
            raise BadSetting(f"devices: {settings.devices!a} is not allowed: two to spread experts")
        self._settings = settings
        self._servers = settings.kafka
        self._telemetry = telemetry
        self._load = load or _load
        self._opened: Sequence[Model] = ()
        self._pipeline: Pipeline | None = None

    async def start(self) -> None:
        """Load the model on every device and join the group; partitions are restored after that.

        Raises:
            ValueError: The model cannot be loaded.
            KafkaError: No broker answers.
        """
        settings = self._settings
        # The network's thread asks for the interpreter after each of its short operations; with the
        # default of 5 ms the loop would keep it waiting longer than the network computes.
        sys.setswitchinterval(SWITCH_S)
        self._opened = models = await asyncio.to_thread(self._models)
        self._pipeline = Pipeline(
            self._servers,
            models,
            Options(
                group=f"{settings.group}-worker",
                emit=settings.emit,
                min_rescore_ms=settings.min_rescore_ms,
                max_skew_ms=settings.max_skew_ms,
                max_lag=settings.max_lag,
                stuck_after_s=settings.stuck_after_s,
                snapshot_every_s=settings.snapshot_every_s,
                session_timeout_ms=settings.session_timeout_ms,
                queue_limit=settings.queue_limit,
                max_beds=settings.max_beds,
                bed_idle_h=settings.bed_idle_h,
                max_batch=settings.max_batch,
                max_wait_ms=settings.max_wait_ms,
                stale_after_ms=settings.stale_after_ms,
                partitions=settings.partitions,
                replication=settings.replication,
            ),
            self._telemetry,
        )
        await self._pipeline.start()
        # What lives until the end need not be looked at by every collection.
        gc.collect()
        gc.freeze()

    def _models(self) -> Sequence[Model]:
        settings = self._settings
        names = [name.strip() for name in settings.devices.split(",") if name.strip()]
        if settings.spread_experts:
            return [_spread(settings.model, names, settings.threads)]
        return [self._load(settings.model, name, settings.threads) for name in names]

    async def wait(self) -> None:
        """Never returns by itself; raises what stopped the stream."""
        if self._pipeline is None:
            raise RuntimeError("worker: not started")
        await self._pipeline.wait()

    async def drain(self, deadline: Deadline) -> None:
        """Take nothing new, publish what is under way, commit, snapshot, leave the group."""
        if self._pipeline is not None:
            await self._pipeline.drain(deadline.left_s * 0.9)
        for model in self._opened:
            if close := getattr(model, "close", None):
                await asyncio.to_thread(close)

    def health(self) -> Mapping[str, Health]:
        """Kafka, restoring, lag, stuck partitions, each device and the model."""
        if self._pipeline is None:
            return {"worker": Health(False, "starting")}
        return {name: Health(ok, detail) for name, (ok, detail) in self._pipeline.health().items()}
