"""Which predictions the history keeps: one a bed and minute, and each that moved an alert. Pure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from app.ward.beds import Bed
from app.ward.evidence import Head
from app.ward.tables import NO_CASE

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of `predictions`; of two with one key the higher (generation, source_offset) stays."""

    bed_id: str
    ts_ms: int
    case_id: str
    model_version: str
    generation: int
    source_offset: int
    body: bytes

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What is unique."""
        return (self.bed_id, self.ts_ms, self.case_id, self.model_version)


def keep(bed: Bed, head: Head, body: bytes, generation: int, moved: bool) -> Kept | None:
    """The row of a prediction that is to be kept, None of another one.

    Args:
        bed: What is remembered of the bed; knows afterwards what was kept.
        head: The prediction.
        body: The message.
        generation: How often its topic was made anew.
        moved: Whether it moved an alert.
    """
    same_minute = head.ts_ms // MINUTE_MS == bed.kept_ms // MINUTE_MS
    # Of one event time the newest source stays: a late value has made the numbers better.
    newer = head.ts_ms == bed.kept_ms
    if same_minute and not newer and not moved and head.model_version == bed.kept_version:
        return None
    bed.kept_ms, bed.kept_version = head.ts_ms, head.model_version
    return Kept(
        bed_id=head.bed_id,
        ts_ms=head.ts_ms,
        case_id=head.case_id or NO_CASE,
        model_version=head.model_version,
        generation=generation,
        source_offset=head.source.offset,
        body=zlib.compress(body, 1),
    )
