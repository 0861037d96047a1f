"""How a worker's stream behaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The fields are those of `app.settings.Settings`."""

    group: str
    emit: Literal["latest", "each"] = "latest"
    min_rescore_ms: int = 0
    max_skew_ms: int = 60_000
    max_lag: int = 50_000
    stuck_after_s: float = 30.0
    snapshot_every_s: float = 120.0
    session_timeout_ms: int = 30_000
    queue_limit: int = 100_000
    max_beds: int = 100_000
    bed_idle_h: float = 96.0
    max_batch: int = 0
    max_wait_ms: float = 5.0
    stale_after_ms: int = 30_000
    partitions: int = 12
    replication: int = 1

    @property
    def each(self) -> bool:
        """Whether every message is predicted."""
        return self.emit == "each"
