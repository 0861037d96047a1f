"""Minute aggregates against a slow, obvious reference."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from app.ward.trends import Key, Minute, Trends

NOW = 1_800_000_000_000

messages = st.lists(
    st.tuples(
        st.sampled_from(["A", "B"]),
        st.integers(0, 400).map(lambda s: NOW + s * 1_000),
        st.integers(0, 400).map(float),
    ),
    max_size=80,
)


def reference(given_: list[tuple[str, int, float]]) -> dict[Key, tuple[int, float, float, float]]:
    """Of each second the value that came first; bounds of the heart rate are 10 and 350."""
    seconds: dict[Key, dict[int, float]] = {}
    extremes: dict[Key, list[float]] = {}
    for bed_id, ts_ms, value in given_:
        if 10 <= value <= 350:
            key = (bed_id, "hr", ts_ms - ts_ms % 60_000)
            seconds.setdefault(key, {}).setdefault(ts_ms // 1_000, value)
            extremes.setdefault(key, []).append(value)
    return {
        key: (len(first), sum(first.values()), min(extremes[key]), max(extremes[key]))
        for key, first in seconds.items()
    }


def write(trends: Trends, table: dict[Key, Minute]) -> None:
    rows = trends.merge({k: copy.copy(table[k]) for k in trends.unknown() if k in table})
    table.update({key: copy.copy(row) for key, row in rows})
    trends.written()


@given(messages, st.sets(st.integers(0, 80)), st.sets(st.integers(0, 80)), st.integers(1, 3))
def test_rows_are_those_of_the_reference(
    given_: list[tuple[str, int, float]], writes: set[int], restarts: set[int], times: int
) -> None:
    """Whenever it is written, restarted and repeated, the rows are the same."""
    table: dict[Key, Minute] = {}
    trends = Trends()
    for _ in range(times):
        for i, (bed_id, ts_ms, value) in enumerate(given_):
            trends.add(bed_id, ts_ms, {"hr": value, "map": None, "unknown": 1.0})
            if i in writes or i in restarts:
                write(trends, table)
            if i in restarts:
                trends = Trends()
        write(trends, table)
    found = {key: (row.n, row.total, row.low, row.high) for key, row in table.items()}
    assert found == reference(given_)


def test_newest_value_is_the_last_and_of_equal_times_the_later_one() -> None:
    """`last` follows event time; what arrived last wins among equals."""
    trends = Trends()
    for ts_ms, value in ((NOW + 5, 80.0), (NOW + 1, 70.0), (NOW + 5, 81.0)):
        trends.add("A", ts_ms, {"hr": value})
    ((_, row),) = trends.merge({})
    assert (row.last, row.last_ms, row.n) == (81.0, NOW + 5, 1)
