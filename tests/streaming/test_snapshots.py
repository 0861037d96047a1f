"""What a restart still needs of the log."""

from hypothesis import given
from hypothesis import strategies as st

from streaming.messages import Snapshot, Source
from streaming.snapshots import (
    Keep,
    decode_note,
    encode_note,
    needed,
    newest_snapshots,
    stagger_s,
)


@given(steps=st.lists(st.sampled_from(["observe", "capture", "publish", "drop"]), max_size=40))
def test_needed_is_the_first_offset_that_no_published_snapshot_holds(steps: list[str]) -> None:
    """Against a slow model that remembers every offset and every capture."""
    keep = Keep(0)
    in_window: list[int] = []
    published, waiting = -1, -1
    for offset, step in enumerate(steps):
        if step == "observe":
            in_window.append(offset)
            if keep.since < 0:
                keep.since = offset
        elif step == "capture" and keep.since >= 0 and keep.waiting < 0:
            waiting = in_window[-1]
            keep.capture(waiting)
        elif step == "publish" and waiting >= 0:
            published, waiting = waiting, -1
            keep.published()
        elif step == "drop" and waiting >= 0:
            waiting = -1
            keep.dropped()
        expected = next((o for o in in_window if o > published), -1)
        assert keep.needed == expected


def test_a_quiet_bed_does_not_hold_the_tail_back() -> None:
    """A bed whose snapshot says all needs nothing; the lowest of the others decides."""
    quiet, busy = Keep(0), Keep(0, since=40)
    assert needed(100, [quiet, busy]) == 40
    assert needed(30, [quiet, busy]) == 30
    assert needed(100, [quiet]) == 100


def test_a_note_of_another_kind_is_no_note() -> None:
    """What somebody else committed means: read everything."""
    assert decode_note(encode_note(12)) == 12
    assert decode_note("") is None
    assert decode_note("consumer-1") is None


def test_the_highest_offset_wins_over_a_late_sender() -> None:
    """A worker that was stopped past its session may still send an older snapshot."""

    def snapshot(offset: int) -> Snapshot:
        return Snapshot("b", None, Source(0, offset), "g", 1, b"")

    found: dict[str, Snapshot] = {}
    newest_snapshots([("b", snapshot(9)), ("b", snapshot(4))], found)
    assert found["b"].source.offset == 9
    newest_snapshots([("b", None)], found)
    assert found == {}


def test_captures_are_spread_over_the_period() -> None:
    """Of a hundred beds that began together no tenth of the period has over twice its share."""
    due = [stagger_s(i, 100.0) for i in range(100)]
    assert all(50 <= s <= 150 for s in due)
    for tenth in range(10):
        assert sum(tenth * 10 <= s - 50 < tenth * 10 + 10 for s in due) <= 20
