"""Whether a consumer gets on, by a fake clock."""

from __future__ import annotations

from streaming.watch import ENDS_EVERY_S, PAUSE_S, SILENT_S, Watch


class Clock:
    """Seconds that a test lets pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def watch() -> tuple[Watch[str], Clock]:
    """Partition a at 5 of 9, polled just now."""
    clock = Clock()
    made: Watch[str] = Watch(clock)
    made.polled()
    made.moved("a", 5)
    made.ends({"a": 9, "other's": 7}, {"a": 5})
    return made, clock


def test_a_partition_that_does_not_move_is_stuck() -> None:
    """Only where there is something to read, and only where it may flow."""
    made, clock = watch()
    clock.now += 11
    assert made.stuck({"a": 5}, {"a"}, 10) == {"a"}
    assert made.stuck({"a": 5}, set(), 10) == frozenset()
    assert made.stuck({"a": 9}, {"a"}, 10) == frozenset()
    made.moved("a", 6)
    assert made.stuck({"a": 6}, {"a"}, 10) == frozenset()


def test_an_owner_that_does_not_poll_is_not_the_clients_fault() -> None:
    """The time before its next poll does not count."""
    made, clock = watch()
    clock.now += 11 + PAUSE_S
    made.polled()
    assert made.stuck({"a": 5}, {"a"}, 10) == frozenset()
    clock.now += 11
    assert made.stuck({"a": 5}, {"a"}, 10) == {"a"}


def test_the_lag_is_known_where_position_and_end_are() -> None:
    """Never negative; another's partition has none; nothing is known of a client that is gone."""
    made, _ = watch()
    assert made.lag({"a": 5, "b": None}) == {"a": 4}
    assert made.lag({"a": 12}) == {"a": 0}
    made.unknown()
    assert made.lag({"a": 5}) == {}


def test_old_ends_say_nothing_of_a_client() -> None:
    """An unreachable cluster is no reason to make the client anew."""
    made, clock = watch()
    assert made.informed
    clock.now += 3 * ENDS_EVERY_S
    assert not made.informed


def test_a_cluster_that_is_silent_for_long_does_not_answer() -> None:
    """An assignment and the partitions' ends are answers."""
    made, clock = watch()
    for answer in (made.begin, lambda: made.ends({"a": 9}, {"a": 9})):
        clock.now += SILENT_S
        assert not made.answered
        answer()
        assert made.answered


def test_a_partition_at_its_end_is_not_stuck_when_more_comes() -> None:
    """The time that it had nothing to read does not count."""
    made, clock = watch()
    made.moved("a", 9)
    clock.now += 60
    made.ends({"a": 9}, {"a": 9})
    clock.now += 5
    made.ends({"a": 10}, {"a": 9})
    assert made.stuck({"a": 9}, {"a"}, 10) == frozenset()


def test_the_latest_turn_of_the_loop_is_told() -> None:
    """Of those kept."""
    made, _ = watch()
    for late_s in (0.1, 2.5, 0.0):
        made.loop_was_late(late_s)
    assert made.loop_lag_s == 2.5
