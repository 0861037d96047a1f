"""What the stream tells about itself, as Prometheus reads it. No bed and no case is ever a label.

The names are a contract with `deploy/prometheus` and `deploy/grafana`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from app.lifecycle import Health
from streaming.telemetry import Telemetry

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_SHORT_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG_S: Final = (
    *(0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
    *(5.0, 10.0, 30.0),
)
_SIZES: Final = tuple(float(1 << i) for i in range(14))


class Metrics(Telemetry):
    """All metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._messages = Counter(
            "vitalstream_messages",
            "Messages read or written, by what became of them.",
            ["topic", "outcome"],
            registry=registry,
        )
        self._dead_letters = Counter(
            "vitalstream_dead_letters",
            "Messages that could not be used, by reason.",
            ["reason"],
            registry=registry,
        )
        self._predictions = Counter(
            "vitalstream_predictions",
            "Windows predicted, by device.",
            ["device"],
            registry=registry,
        )
        self._skipped = Counter(
            "vitalstream_skipped",
            "Work left undone on purpose, by reason.",
            ["reason"],
            registry=registry,
        )
        self._batch_size = Histogram(
            "vitalstream_batch_size",
            "Windows of a batch.",
            ["device", "flush"],
            buckets=_SIZES,
            registry=registry,
        )
        self._queue = Histogram(
            "vitalstream_queue_seconds",
            "Time of a window from entering its device's queue to its batch's start.",
            ["device"],
            buckets=_SHORT_S,
            registry=registry,
        )
        self._inference = Histogram(
            "vitalstream_inference_seconds",
            "Time of a batch in the model.",
            ["device"],
            buckets=_SHORT_S,
            registry=registry,
        )
        self._end_to_end = Histogram(
            "vitalstream_end_to_end_seconds",
            "From the sample's broker timestamp to the acknowledgement of its prediction.",
            buckets=_LONG_S,
            registry=registry,
        )
        self._lag = Gauge(
            "vitalstream_consumer_lag",
            "Messages between the position and the end of a partition.",
            ["topic", "partition"],
            registry=registry,
        )
        self._view_lag = Gauge(
            "vitalstream_view_lag",
            "Messages that the api's view of the ward has not taken yet.",
            registry=registry,
        )
        self._beds = Gauge("vitalstream_beds", "Beds in each state.", ["state"], registry=registry)
        self._share = Gauge(
            "vitalstream_expert_share",
            "Mean share of each expert in the newest batch.",
            ["expert"],
            registry=registry,
        )
        self._alerts = Counter(
            "vitalstream_alerts", "Alerts opened.", ["kind", "priority"], registry=registry
        )
        self._part_ok = Gauge(
            "vitalstream_part_ok",
            "Whether a part of this process does its work (1) or not (0): what /health/ready says.",
            ["part"],
            registry=registry,
        )
        self._requests = Histogram(
            "vitalstream_http_seconds",
            "Time to answer a REST request.",
            ["method", "route", "status"],
            buckets=_LONG_S,
            registry=registry,
        )
        self._readers = Gauge("vitalstream_stream_readers", "Open live streams.", registry=registry)
        self._conflated = Counter(
            "vitalstream_stream_conflated",
            "Events that a newer one of the same bed replaced before a slow reader took them.",
            registry=registry,
        )
        self._health: list[Callable[[], Mapping[str, Health]]] = []

    def watch(self, health: Callable[[], Mapping[str, Health]]) -> None:
        """Export what this says of each part, asked at every scrape."""
        self._health.append(health)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        for health in self._health:
            for part, state in health().items():
                self._part_ok.labels(part).set(float(state.ok))
        return generate_latest(self.registry)

    def page(self) -> tuple[bytes, str]:
        """The text and its content type, as `app.ops.Ops` serves them."""
        return self.exposition(), CONTENT_TYPE

    def message(self, topic: str, outcome: str, count: int = 1) -> None:
        """Count messages."""
        self._messages.labels(topic, outcome).inc(count)

    def dead_letter(self, reason: str, count: int = 1) -> None:
        """Count dead letters."""
        self._dead_letters.labels(reason).inc(count)

    def skipped(self, reason: str, count: int = 1) -> None:
        """Count what was left undone."""
        self._skipped.labels(reason).inc(count)

    def batch(
        self, device: str, size: int, reason: str, waited_s: Iterable[float], inference_s: float
    ) -> None:
        """Observe one batch."""
        self._predictions.labels(device).inc(size)
        self._batch_size.labels(device, reason).observe(size)
        observe = self._queue.labels(device).observe
        for seconds in waited_s:
            observe(seconds)
        self._inference.labels(device).observe(inference_s)

    def end_to_end(self, seconds: Iterable[float]) -> None:
        """Observe acknowledged predictions."""
        observe = self._end_to_end.observe
        for value in seconds:
            observe(value)

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """Set a partition's lag."""
        self._lag.labels(topic, str(partition)).set(messages)

    def view_lag(self, messages: int) -> None:
        """Set how far behind the api's view is."""
        self._view_lag.set(messages)

    def beds(self, states: Mapping[str, int]) -> None:
        """Set the beds of each state."""
        for state, count in states.items():
            self._beds.labels(state).set(count)

    def expert_share(self, shares: Mapping[str, float]) -> None:
        """Set the experts' shares."""
        for expert, share in shares.items():
            self._share.labels(expert).set(share)

    def alert(self, kind: str, priority: str) -> None:
        """Count an opened alert."""
        self._alerts.labels(kind, priority).inc()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Observe a REST request; `route` is the template, never the path."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def readers(self, count: int) -> None:
        """Set the number of open live streams."""
        self._readers.set(count)

    def conflated(self, count: int) -> None:
        """Count events that slow readers did not get."""
        self._conflated.inc(count)
