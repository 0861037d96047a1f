"""Prometheus: the one door to its client. Names are promises that dashboards and alert rules stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from streaming.telemetry import Telemetry

if TYPE_CHECKING:
    from app.lifecycle import Health

_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class _Parts(Collector):
    """Asks the roles' health at each scrape, so that a dashboard sees what readiness says."""

    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], Mapping[str, Health]]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "vitalstream_part_ok", "Whether a part does its work (1) or not (0).", labels=["role", "part"]
        )
        for role, health in self.sources.items():
            for part, state in health().items():
                family.add_metric([role, part], float(state.ok))
        yield family


class Metrics(Telemetry):
    """All metrics of one process; no bed or case in any label."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._parts = _Parts()
        self._registry.register(self._parts)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vitalstream_{name}", text, labels, registry=self._registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"vitalstream_{name}", text, labels, registry=self._registry)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], *labels: str
        ) -> Histogram:
            return Histogram(
                f"vitalstream_{name}", text, labels, registry=self._registry, buckets=buckets
            )

        self._messages = counter(
            "messages", "Messages read or written.", "topic", "outcome"
        )
        self._dead = counter("dead_letters", "Messages that could not be used.", "reason")
        self._predictions = counter("predictions", "Predictions made.", "device")
        self._skipped = counter("skipped", "Work left undone on purpose.", "reason")
        self._flushes = counter("batches", "Batches flushed.", "device", "reason")
        self._size = histogram("batch_size", "Windows in a batch.", _BATCH, "device")
        self._queue = histogram(
            "queue_seconds", "A window's wait for its batch.", _LATENCY_S, "device"
        )
        self._inference = histogram(
            "inference_seconds", "A batch in the network.", _LATENCY_S, "device"
        )
        self._end_to_end = histogram(
            "end_to_end_seconds",
            "Broker timestamp of the newest sample to its prediction acknowledged.",
            _LATENCY_S,
        )
        self._lag = gauge(
            "consumer_lag", "Messages between position and end.", "topic", "partition"
        )
        self._beds = gauge("beds", "Beds in each state.", "state")
        self._share = gauge("expert_share", "Mean share of each expert in the last batch.", "expert")
        self._alerts = counter("alerts", "Alerts opened.", "kind", "priority")

    def watch(self, role: str, health: Callable[[], Mapping[str, Health]]) -> None:
        """Show a role's parts as `vitalstream_part_ok`."""
        self._parts.sources[role] = health

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def __call__(self) -> tuple[bytes, str]:
        """Text and its content type, as an operations server wants them."""
        return self.exposition(), self.content_type

    def message(self, topic: str, outcome: str, count: int = 1) -> None:
        self._messages.labels(topic, outcome).inc(count)

    def dead_letter(self, reason: str, count: int = 1) -> None:
        self._dead.labels(reason).inc(count)

    def skipped(self, reason: str, count: int = 1) -> None:
        self._skipped.labels(reason).inc(count)

    def batch(
        self, device: str, size: int, reason: str, waited_s: Iterable[float], inference_s: float
    ) -> None:
        self._predictions.labels(device).inc(size)
        self._flushes.labels(device, reason).inc()
        self._size.labels(device).observe(size)
        self._inference.labels(device).observe(inference_s)
        queue = self._queue.labels(device)
        for seconds in waited_s:
            queue.observe(seconds)

    def end_to_end(self, seconds: Iterable[float]) -> None:
        for one in seconds:
            self._end_to_end.observe(one)

    def lag(self, topic: str, partition: int, messages: int) -> None:
        self._lag.labels(topic, str(partition)).set(messages)

    def beds(self, states: Mapping[str, int]) -> None:
        for state, count in states.items():
            self._beds.labels(state).set(count)

    def expert_share(self, shares: Mapping[str, float]) -> None:
        for expert, share in shares.items():
            self._share.labels(expert).set(share)

    def alert(self, kind: str, priority: str) -> None:
        self._alerts.labels(kind, priority).inc()
