"""A bed becomes a snapshot, and a snapshot a bed. Pure but for the bed's window store."""

from __future__ import annotations

import numpy as np

from streaming.beds import MOST_PREVIOUS, Bed
from streaming.messages import Snapshot, Source


def pack(bed: Bed, grid: str) -> Snapshot:
    """A bed with its window as it is after `bed.source`.

    Of a bed whose new case was not heard of yet there is no window: the names alone, as they are
    after `bed.seen`. They tell a restart that a straggler of the case before is none of a new one.

    Args:
        bed: The bed.
        grid: Digest of the model's grid.

    Raises:
        ValueError: The bed was never heard of.
    """
    if bed.seen < 0:
        raise ValueError("snapshot of a bed that was never heard of")
    held = bed.slot >= 0 and bed.source >= 0
    store = bed.home.store
    return Snapshot(
        bed_id=bed.bed_id,
        case_id=bed.case_id,
        source=Source(bed.partition, bed.source if held else bed.seen),
        grid=grid,
        newest_ms=int(store.newest_ms(np.array([bed.slot], np.int32))[0]) if held else -1,
        window=store.snapshot(bed.slot) if held else b"",
        previous_cases=list(bed.previous),
        since_ms=bed.since_ms,
        heard_ms=bed.heard_ms,
    )


def unpack(snapshot: Snapshot, bed: Bed) -> None:
    """Take a window over from before a restart.

    What `icu.cases` has on record of the bed wins: the window of a case that has ended since is not
    used, only how far it had read. On record is the snapshot's case, or one that came after it; or
    one from before, where an observation named the snapshot's case and no record followed.

    Args:
        snapshot: The window.
        bed: The bed, which knows what is on record.

    Raises:
        ValueError: The window cannot be unpacked; the bed is as if there were no snapshot.
    """
    recorded = bed.case_id
    earlier = list(dict.fromkeys((*snapshot.previous_cases, *bed.previous)))
    # A case from before that was admitted after the snapshot's began: the patient has come back.
    back = bed.case is not None and not bed.closed and bed.since_ms > snapshot.since_ms
    newer = recorded is None or (recorded in snapshot.previous_cases and not back)
    same = recorded == snapshot.case_id
    ended = (same and bed.closed) or 0 <= bed.tombstone_ms >= snapshot.newest_ms
    if (newer or same) and not ended:
        if snapshot.window:
            _restore(snapshot, bed)
        if not same:
            bed.case_id, bed.case, bed.closed = snapshot.case_id, None, False
            bed.since_ms = snapshot.since_ms
        if bed.slot >= 0:
            bed.home.store.set_case(bed.slot, bed.case)
            if bed.case is not None:
                bed.home.store.recut(bed.slot, bed.phase_ms)
    elif snapshot.case_id is not None and not same:
        earlier.append(snapshot.case_id)
    bed.previous = [case_id for case_id in dict.fromkeys(earlier) if case_id != bed.case_id]
    del bed.previous[:-MOST_PREVIOUS]
    bed.seen = max(bed.seen, snapshot.source.offset)
    bed.heard_ms = max(bed.heard_ms, snapshot.heard_ms)
    bed.set_floor()


def _restore(snapshot: Snapshot, bed: Bed) -> None:
    slot = bed.slot if bed.slot >= 0 else bed.home.claim()
    try:
        bed.home.store.restore(slot, snapshot.window)
    except ValueError:
        if bed.slot < 0:
            bed.home.release(slot)
        raise
    bed.slot, bed.source = slot, snapshot.source.offset
