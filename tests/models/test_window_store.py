"""The window store against a slow and obvious reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import GRID, HOUR_MS, HOURS, MINUTE_MS, MINUTES, Grid, Scale
from models.signals import COUNT, GROUP_OF, NAMES, VITALS
from models.window_store import Applied, HostWindowStore, Windows

SMALL = Grid(
    scales=(
        Scale(name="hours", width_ms=100, bins=6, signals=NAMES),
        Scale(name="minutes", width_ms=10, bins=4, signals=VITALS),
    )
)
"""So small that a few random numbers wrap around the rings."""
SIGNALS = (0, 1, 2, 8, 9, 14, 44)
BASE = 10_000


class Cells(NamedTuple):
    """What `apply` takes."""

    slot: np.ndarray
    signal: np.ndarray
    ts_ms: np.ndarray
    value: np.ndarray


class Cell(NamedTuple):
    """One measured value."""

    slot: int
    signal: int
    ts_ms: int
    value: float


def cells(rows: list[Cell]) -> Cells:
    """Arrays of rows."""
    return Cells(
        np.array([r.slot for r in rows], np.int32),
        np.array([r.signal for r in rows], np.int16),
        np.array([r.ts_ms for r in rows], np.int64),
        np.array([r.value for r in rows], np.float32),
    )


def feed(store: HostWindowStore, rows: list[Cell]) -> Applied:
    """Touch, then apply."""
    given = cells(rows)
    store.touch(given.slot, given.ts_ms)
    return store.apply(given)


class Reference:
    """A window as a list of everything that was ever said; cut when it is read."""

    def __init__(self, grid: Grid, phase_ms: int) -> None:
        self.grid = grid
        self.phase_ms = phase_ms
        self.said: list[tuple[int, int, float]] = []
        self.newest_ms = -1

    def touch(self, ts_ms: int) -> None:
        """Hear a message."""
        self.newest_ms = max(self.newest_ms, ts_ms)

    def put(self, signal: int, ts_ms: int, value: float) -> None:
        """Hear a value."""
        self.said.append((signal, ts_ms, value))

    def late(self, ts_ms: int) -> bool:
        """Whether a time is older than the long window now."""
        return self._back(self.grid.scales[0], ts_ms) >= self.grid.scales[0].bins

    def _back(self, scale: Scale, ts_ms: int) -> int:
        head = (self.newest_ms - self.phase_ms) // scale.width_ms
        return head - (ts_ms - self.phase_ms) // scale.width_ms

    def scale(self, scale: Scale) -> np.ndarray:
        """The whole scale, oldest bin first."""
        out = np.full((scale.bins, len(scale.signals)), np.nan, np.float32)
        for signal, ts_ms, value in sorted(self.said, key=lambda said: said[1]):
            back = self._back(scale, ts_ms)
            if back < scale.bins and NAMES[signal] in scale.signals:
                out[scale.bins - 1 - back, scale.signals.index(NAMES[signal])] = value
        return out

    def newest(self) -> dict[int, tuple[float, int]]:
        """Newest value of each signal in the window, and its age."""
        out = {}
        for signal, ts_ms, value in sorted(self.said, key=lambda said: said[1]):
            if not self.late(ts_ms):
                out[signal] = (value, self.newest_ms - ts_ms)
        return out


def check(store: HostWindowStore, slot: int, reference: Reference) -> None:
    """A slot says what its reference says."""
    hours, minutes = reference.grid.scales
    slots = np.array([slot], np.int32)
    window = store.gather(slots, hours.bins)
    expected = reference.scale(hours)
    np.testing.assert_array_equal(window.hours[0], expected)
    np.testing.assert_array_equal(window.minutes[0], reference.scale(minutes))
    assert window.newest_ms[0] == reference.newest_ms == store.newest_ms(slots)[0]
    newest = reference.newest()
    for signal in range(COUNT):
        value, age_ms = newest.get(signal, (np.nan, -1))
        np.testing.assert_equal(window.newest_value[0, signal], np.float32(value))
        assert window.newest_age_ms[0, signal] == age_ms
    filled = np.flatnonzero(~np.isnan(expected).all(1))
    length = hours.bins - filled[0] if len(filled) else 1
    assert window.length[0] == length == store.lengths(slots)[0]
    assert store.groups(slots)[0] == sum(1 << g for g in {int(GROUP_OF[s]) for s in newest})
    tight = store.gather(slots)
    np.testing.assert_array_equal(tight.hours[0], expected[hours.bins - length :])


CELL = st.builds(
    Cell,
    slot=st.integers(0, 2),
    signal=st.sampled_from(SIGNALS),
    # Most times lie within a window of each other, some jump beyond it.
    ts_ms=st.one_of(st.integers(0, 700), st.integers(0, 700), st.integers(0, 2_500)).map(
        lambda ms: BASE + ms
    ),
    value=st.integers(0, 50).map(float),
)
STEP = st.one_of(
    st.tuples(st.just("cells"), st.lists(CELL, min_size=1, max_size=12)),
    st.tuples(st.just("touch"), st.tuples(st.integers(0, 2), st.integers(BASE, BASE + 2_500))),
    st.tuples(st.just("open"), st.tuples(st.integers(0, 2), st.sampled_from([0, 9_990, 10_450]))),
    st.tuples(st.just("close"), st.tuples(st.integers(0, 2), st.just(0))),
    st.tuples(st.just("pack"), st.tuples(st.integers(0, 2), st.just(0))),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEP, max_size=25))
def test_any_history_leaves_the_reference_windows(steps: list) -> None:
    """Out of order, repeated, with gaps and jumps, emptied, packed and unpacked: the windows are
    the reference's.
    """
    store = HostWindowStore(SMALL, 3)
    references = {slot: Reference(SMALL, 0) for slot in range(3)}
    for what, arguments in steps:
        if what == "cells":
            for cell in arguments:
                references[cell.slot].touch(cell.ts_ms)
            late = sum(references[cell.slot].late(cell.ts_ms) for cell in arguments)
            for cell in arguments:
                references[cell.slot].put(cell.signal, cell.ts_ms, cell.value)
            applied = feed(store, arguments)
            assert applied.late == late
            assert applied.landed + applied.superseded + applied.late == len(arguments)
            continue
        slot, number = arguments
        if what == "touch":
            references[slot].touch(number)
            store.touch(np.array([slot], np.int32), np.array([number], np.int64))
        elif what == "open":
            references[slot] = Reference(SMALL, number)
            store.open(slot, number, None)
        elif what == "close":
            references[slot] = Reference(SMALL, 0)
            store.close(slot)
        else:
            packed = store.snapshot(slot)
            store.open(slot, 123, None)
            store.restore(slot, packed)
            assert store.snapshot(slot) == packed
    for slot, reference in references.items():
        check(store, slot, reference)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(CELL, max_size=40, unique_by=lambda c: (c.slot, c.signal, c.ts_ms)),
    data=st.data(),
)
def test_order_and_repeats_do_not_matter(rows: list[Cell], data: st.DataObject) -> None:
    """Of distinct times any order, in any batches, some of them twice, makes the same window."""
    once, again = HostWindowStore(SMALL, 3), HostWindowStore(SMALL, 3)
    if rows:
        feed(once, rows)
    repeats = data.draw(st.lists(st.sampled_from(rows), max_size=10)) if rows else []
    shuffled = data.draw(st.permutations(rows + repeats))
    while shuffled:
        size = data.draw(st.integers(1, len(shuffled)))
        feed(again, shuffled[:size])
        shuffled = shuffled[size:]
    for slot in range(3):
        assert once.snapshot(slot) == again.snapshot(slot)


def test_large_batches_are_ordered_like_small_ones() -> None:
    """Both ways of sorting a batch, and times too far apart for one key, give the same windows."""
    rng = np.random.default_rng(7)
    rows = [
        Cell(int(s), int(g), BASE + int(t), float(v))
        for s, g, t, v in zip(
            rng.integers(0, 8, 3000),
            rng.integers(0, COUNT, 3000),
            rng.integers(0, 900, 3000),
            rng.integers(0, 99, 3000),
            strict=True,
        )
    ]
    whole, parts, apart = (HostWindowStore(SMALL, 9) for _ in range(3))
    feed(whole, rows)
    feed(apart, [*rows, Cell(8, 0, 1 << 55, 1.0)])
    for at in range(0, 3000, 100):
        feed(parts, rows[at : at + 100])
    for slot in range(8):
        assert whole.snapshot(slot) == parts.snapshot(slot) == apart.snapshot(slot)


def test_of_equal_times_the_last_that_arrived_stays() -> None:
    """Within a batch and from batch to batch."""
    store = HostWindowStore(GRID, 1)
    assert feed(store, [Cell(0, 0, BASE, 60), Cell(0, 0, BASE, 61)]) == Applied(1, 1, 0)
    assert one(store).newest_value[0, 0] == 61
    feed(store, [Cell(0, 0, BASE, 62)])
    assert one(store).newest_value[0, 0] == one(store).hours[0, -1, 0] == 62
    assert one(store).minutes[0, -1, 0] == 62


def one(store: HostWindowStore) -> Windows:
    """Slot 0, gathered."""
    return store.gather(np.zeros(1, np.int32))


def test_a_value_too_old_for_the_minutes_lands_in_the_hours() -> None:
    """The long scale decides what is late."""
    store = HostWindowStore(GRID, 1)
    now = 100 * HOUR_MS
    feed(store, [Cell(0, 0, now, 80)])
    assert feed(store, [Cell(0, 0, now - 2 * HOUR_MS, 70)]) == Applied(1, 0, 0)
    window = one(store)
    assert window.hours[0, 0, 0] == 70 and np.isnan(window.minutes[0, :-1]).all()
    assert feed(store, [Cell(0, 0, now - HOURS.bins * HOUR_MS, 70)]) == Applied(0, 0, 1)


def test_a_lab_is_in_the_hours_only() -> None:
    """The minute scale carries the vitals."""
    store = HostWindowStore(GRID, 1)
    feed(store, [Cell(0, NAMES.index("lactate"), BASE, 2.5)])
    assert np.isnan(one(store).minutes).all() and store.groups(np.zeros(1, np.int32))[0] == 0b100


def test_after_a_gap_nothing_stale_is_fresh() -> None:
    """A message without values empties the minutes and ages what is left; past the window all is
    gone.
    """
    store = HostWindowStore(GRID, 1)
    feed(store, [Cell(0, 0, BASE, 80)])
    slots = np.zeros(1, np.int32)
    store.touch(slots, np.array([BASE + 5 * HOUR_MS]))
    window = one(store)
    assert np.isnan(window.minutes).all() and window.newest_age_ms[0, 0] == 5 * HOUR_MS
    assert window.length[0] == 6
    store.touch(slots, np.array([BASE + 72 * HOUR_MS]))
    window = one(store)
    assert np.isnan(window.hours).all() and np.isnan(window.newest_value).all()
    assert window.newest_age_ms[0, 0] == -1 and window.length[0] == 1


def test_bins_are_cut_at_the_admission_also_before_it() -> None:
    """A value an instant before the phase is in the bin before."""
    store = HostWindowStore(GRID, 1)
    phase = 50 * HOUR_MS + 1_234_567
    store.open(0, phase, None)
    feed(store, [Cell(0, 0, phase, 80), Cell(0, 0, phase - 1, 70), Cell(0, 0, phase - HOUR_MS, 60)])
    window = one(store)
    assert window.hours[0, :, 0].tolist() == [70, 80]
    assert window.minutes[0, -2:, 0].tolist() == [70, 80]
    assert window.phase_ms[0] == phase


def test_growing_keeps_what_is_there() -> None:
    """More slots change no window."""
    store = HostWindowStore(GRID, 1)
    feed(store, [Cell(0, 0, BASE, 80)])
    packed = store.snapshot(0)
    store.grow(5)
    store.open(4, 0, "case")
    feed(store, [Cell(4, 0, BASE, 80)])
    assert store.capacity == 5 and store.snapshot(0) == packed == store.snapshot(4)
    assert store.gather(np.array([0, 4], np.int32)).cases == [None, "case"]


def test_gathered_windows_are_copies() -> None:
    """What the device's thread reads does not change under it."""
    store = HostWindowStore(GRID, 1)
    feed(store, [Cell(0, 0, BASE, 80)])
    window = one(store)
    feed(store, [Cell(0, 0, BASE + 1, 90)])
    assert window.hours[0, -1, 0] == window.minutes[0, -1, 0] == window.newest_value[0, 0] == 80


def test_a_batch_is_as_long_as_its_longest_or_as_asked() -> None:
    """A shorter window is padded with nothing at its old end; asking for less than needed is an
    error.
    """
    store = HostWindowStore(GRID, 2)
    feed(store, [Cell(0, 0, BASE, 80), Cell(1, 0, BASE, 80), Cell(1, 0, BASE + 9 * HOUR_MS, 81)])
    slots = np.array([0, 1], np.int32)
    assert store.gather(slots).hours.shape == (2, 10, COUNT)
    window = store.gather(slots, 24)
    assert window.hours.shape == (2, 24, COUNT) and np.isnan(window.hours[0, :-1]).all()
    assert window.minutes.shape == (2, MINUTES.bins, len(VITALS)) and len(window) == 2
    with pytest.raises(ValueError, match="bins"):
        store.gather(slots, 9)
    assert len(store.gather(np.array([], np.int32))) == 0


def test_applying_without_touching_is_an_error() -> None:
    """A bin ahead of the window would overwrite another."""
    with pytest.raises(ValueError, match="touch"):
        HostWindowStore(GRID, 1).apply(cells([Cell(0, 0, BASE, 80)]))


def test_a_window_of_another_grid_is_refused() -> None:
    """The digest covers widths, bins and the order of signals."""
    packed = HostWindowStore(SMALL, 1).snapshot(0)
    with pytest.raises(ValueError, match="grid"):
        HostWindowStore(GRID, 1).restore(0, packed)
    turned = Scale(name="minutes", width_ms=MINUTE_MS, bins=60, signals=VITALS[::-1])
    assert Grid(scales=(HOURS, turned)).digest != GRID.digest


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_window_is_refused_or_harmless(data: st.DataObject) -> None:
    """Any bytes either raise ValueError and leave the slot alone, or are a window that packs to
    the same bytes.
    """
    store = HostWindowStore(SMALL, 2)
    feed(store, [Cell(s, g, BASE + 17 * g, 5.0) for s in (0, 1) for g in SIGNALS])
    packed = bytearray(store.snapshot(0))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(packed[: data.draw(st.sampled_from([len(packed), len(packed) // 2, 3]))])
    before = store.snapshot(1)
    try:
        store.restore(1, damaged)
    except ValueError:
        assert store.snapshot(1) == before
    else:
        assert store.snapshot(1) == damaged
    one(store)


@pytest.mark.parametrize("scale", [{"width_ms": 0}, {"bins": 0}, {"signals": ("hr", "hr")}])
def test_a_senseless_scale_is_refused(scale: dict) -> None:
    """Widths and bins are positive, signals known and distinct."""
    with pytest.raises(ValueError, match="scale"):
        Scale(**{"name": "x", "width_ms": 1, "bins": 1, "signals": VITALS, **scale})


@given(st.integers(0, 10 * HOUR_MS), st.data())
def test_bins_cut_anew_hold_what_was_fed_one_value_a_bin(
    phase_ms: int, data: st.DataObject
) -> None:
    """Rows an hour and more apart, cut at the epoch first and at the admission then, are the same
    window as if the admission had been known from the start.
    """
    gaps = data.draw(st.lists(st.integers(HOUR_MS, 3 * HOUR_MS), min_size=1, max_size=20))
    times = 20 * HOUR_MS + np.cumsum(gaps)
    one = np.zeros(1, np.int32)
    known, late = HostWindowStore(GRID, 1), HostWindowStore(GRID, 1)
    known.open(0, phase_ms, None)
    late.open(0, 0, None)
    for store in (known, late):
        for i, ts in enumerate(times.tolist()):
            store.touch(one, np.array([ts]))
            store.apply(
                Cells(
                    np.zeros(2, np.int32),
                    np.array([0, 20], np.int16),
                    np.array([ts, ts]),
                    np.array([60 + i, 2 + i], np.float32),
                )
            )
    late.recut(0, phase_ms)

    assert late.snapshot(0) == known.snapshot(0)
    np.testing.assert_array_equal(late.gather(one).newest_age_ms, known.gather(one).newest_age_ms)


def test_an_empty_window_can_be_cut_anew() -> None:
    """Nothing was measured yet when the admission became known."""
    store = HostWindowStore(GRID, 1)
    store.open(0, 0, None)
    store.recut(0, 5 * HOUR_MS)

    assert store.phase_ms(np.zeros(1, np.int32))[0] == 5 * HOUR_MS
