"""What the stream tells about itself. The base class ignores everything; `app.metrics` turns it
into Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Telemetry:
    """Hooks that the stream calls. Never carries a bed or case."""

    def message(self, topic: str, outcome: str, count: int = 1) -> None:
        """Messages read or written: outcome `accepted`, `rejected`, `published`, `late`, …"""

    def dead_letter(self, reason: str, count: int = 1) -> None:
        """Messages that went to the dead-letter topic."""

    def skipped(self, reason: str, count: int = 1) -> None:
        """Work left undone on purpose: `superseded`, `late`, `out_of_bounds`, `unknown_signal`,
        `other_case`, …
        """

    def batch(
        self, device: str, size: int, reason: str, waited_s: Iterable[float], inference_s: float
    ) -> None:
        """A batch was predicted: why it was flushed, its windows' waits, the network's time."""

    def end_to_end(self, seconds: Iterable[float]) -> None:
        """Broker timestamp of the sample to the acknowledgement of its prediction."""

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """Messages between the position and the end of a partition."""

    def view_lag(self, messages: int) -> None:
        """Messages that the view of the ward has not taken yet, of all topics it follows."""

    def beds(self, states: Mapping[str, int]) -> None:
        """Beds in each state: `live`, `stale`, `restoring`, `warming_up`."""

    def expert_share(self, shares: Mapping[str, float]) -> None:
        """Mean share of each expert in the batch just predicted."""

    def alert(self, kind: str, priority: str) -> None:
        """An alert was opened."""


SILENT = Telemetry()
