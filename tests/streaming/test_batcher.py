"""When a batch goes to a device, and which windows go together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.batcher import PATIENCE, Batcher
from streaming.curve import Curve, flat_curve

BUCKETS = (8, 24, 72)
APART = Curve(BUCKETS, (1, 8), ((1.0, 8.0), (3.0, 24.0), (9.0, 72.0)))
"""A launch costs nothing by itself: nothing is ever merged."""
LAUNCH = flat_curve(BUCKETS, 1_000)
"""A launch costs so much that everything is merged."""


def batcher(curve: Curve = APART, cap: int = 4, wait_s: float = 1.0) -> Batcher:
    """A small one."""
    return Batcher(BUCKETS, curve, cap, wait_s, limit=6)


def test_an_idle_device_gets_what_there_is_at_once() -> None:
    """One window is enough."""
    queue = batcher()
    assert queue.take(0.0, idle=True) is None
    queue.offer(3, 5, 1, False, 0.0)
    flush = queue.take(0.25, idle=True)
    assert flush is not None
    assert (flush.slots, flush.bins, flush.reason, flush.waited_s) == ([3], 8, "idle", [0.25])
    assert len(queue) == 0


def test_a_busy_device_waits_for_size_or_deadline() -> None:
    """A full batch, else the oldest entry's deadline, else the end of it all."""
    queue = batcher()
    for slot in range(3):
        queue.offer(slot, 8, 1, False, slot / 10)
    assert queue.take(0.9, idle=False) is None and queue.deadline_s == 1.0
    drained = queue.take(0.9, idle=False, drain=True)
    assert drained is not None and drained.reason == "drain"
    for slot in range(3):
        queue.offer(slot, 8, 1, False, slot / 10)
    late = queue.take(1.0, idle=False)
    assert late is not None and late.reason == "deadline" and late.slots == [0, 1, 2]
    for slot in range(5):
        queue.offer(slot, 8, 1, False, 2.0)
    full = queue.take(2.0, idle=False)
    assert full is not None and full.reason == "size" and full.slots == [0, 1, 2, 3]
    assert queue.take(2.0, idle=False) is None and queue.slots() == [4]


def test_a_newer_window_replaces_the_beds_older_one_and_keeps_its_age() -> None:
    """A bed that speaks often waits no longer than one that speaks once."""
    queue = batcher()
    assert not queue.offer(0, 8, 1, False, 0.0)
    assert queue.offer(0, 9, 3, True, 0.5)
    assert len(queue) == 1 and queue.deadline_s == 1.0
    flush = queue.take(1.0, idle=False)
    assert flush is not None and flush.slots == [0] and flush.bins == 24
    assert flush.waited_s == [1.0]


def test_windows_of_like_length_and_groups_go_together() -> None:
    """Where a launch by itself costs nothing."""
    queue = batcher(cap=10)
    for slot, (length, groups) in enumerate([(2, 1), (70, 1), (8, 1), (3, 7), (60, 1)]):
        queue.offer(slot, length, groups, False, 0.0)
    taken = []
    while (flush := queue.take(0.0, idle=True)) is not None:
        taken.append((flush.slots, flush.bins))
    assert taken == [([0, 2], 8), ([1, 4], 72), ([3], 8)]


def test_groups_are_merged_where_one_launch_is_cheaper_than_two() -> None:
    """All in one, padded to the longest, as far as the cap goes."""
    queue = batcher(LAUNCH, cap=4)
    for slot, length in enumerate([2, 70, 8, 20, 60]):
        queue.offer(slot, length, 1, False, 0.0)
    flush = queue.take(0.0, idle=True)
    assert flush is not None and flush.slots == [0, 2, 3, 1] and flush.bins == 72


def test_urgent_windows_go_first() -> None:
    """With the others of their group behind them."""
    queue = batcher(cap=2)
    for slot in range(4):
        queue.offer(slot, 8, 1, slot == 3, 0.0)
    queue.offer(9, 70, 1, True, 0.0)
    assert [f.slots for _ in range(3) if (f := queue.take(0.0, idle=True))] == [[3, 0], [9], [1, 2]]


def test_a_discarded_slot_is_gone() -> None:
    """Its window was emptied."""
    queue = batcher()
    queue.offer(0, 8, 1, True, 0.0)
    assert 0 in queue and queue.discard(0) and not queue.discard(0)
    assert queue.take(5.0, idle=True) is None and queue.deadline_s is None


def test_the_queue_says_when_it_is_full() -> None:
    """Replacing does not fill it."""
    queue = batcher()
    for slot in (0, 1, 2, 3, 4, 4, 4):
        queue.offer(slot, 8, 1, False, 0.0)
    assert not queue.full
    queue.offer(5, 8, 1, False, 0.0)
    assert queue.full


def test_a_window_longer_than_every_bucket_is_an_error() -> None:
    """The last bucket is the window."""
    with pytest.raises(ValueError, match="bucket"):
        batcher().offer(0, 73, 1, False, 0.0)


OFFER = st.tuples(
    st.integers(0, 11), st.integers(1, 72), st.integers(0, 7), st.booleans(), st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(rounds=st.lists(st.lists(OFFER, max_size=8), min_size=1, max_size=40), cap=st.integers(1, 4))
def test_nothing_starves_and_nothing_is_lost(rounds: list, cap: int) -> None:
    """However many urgent ones come, an entry waits at most `PATIENCE` flushes and those ahead of
    it when it came.
    """
    queue = batcher(LAUNCH, cap)
    waiting: dict[int, int] = {}
    """Flushes each entry may still wait."""
    for now, offers in enumerate([*rounds, *[[]] * 60]):
        for slot, length, groups, urgent, _ in offers:
            assert queue.offer(slot, length, groups, urgent, float(now)) is (slot in waiting)
            waiting.setdefault(slot, PATIENCE + len(waiting))
        flush = queue.take(float(now), idle=True)
        assert (flush is None) is (not waiting)
        if flush is not None:
            assert 1 <= len(flush.slots) <= cap and len(set(flush.slots)) == len(flush.slots)
            for slot in flush.slots:
                del waiting[slot]
        for slot in waiting:
            waiting[slot] -= 1
            assert waiting[slot] >= 0
        assert set(queue.slots()) == set(waiting)
    assert not waiting
