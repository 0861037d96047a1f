"""Whose an observation is, and what it does to whose window."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import GRID, HOUR_MS
from models.signals import INDEX
from models.window_store import HostWindowStore
from streaming.beds import Recorded
from streaming.messages import Case
from streaming.observations import Observations
from streaming.windows import Bed, Observed, Windows

NOW = 500 * HOUR_MS
HR, MAP = INDEX["hr"], INDEX["map"]


class OneHome:
    """A store and its free slots."""

    def __init__(self) -> None:
        self.store = HostWindowStore(GRID, 2)
        self.free = [0, 1]
        self.due: set[int] = set()

    def claim(self) -> int:
        if not self.free:
            old = self.store.capacity
            self.store.grow(old + 1)
            self.free.append(old)
        return self.free.pop()

    def release(self, slot: int) -> None:
        self.store.close(slot)
        self.free.append(slot)
        self.due.discard(slot)

    def queued(self, slot: int) -> bool:
        return slot in self.due


@dataclass
class Message:
    """One observation."""

    bed_id: str = "A"
    ts_ms: int = NOW
    values: dict[str, float] = field(default_factory=lambda: {"hr": 80.0})
    case_id: str | None = None


def observations(messages: list[Message], start: int = 0) -> Observations:
    """Decoded messages whose offsets begin at `start`."""
    flat = [(INDEX[k], v) for m in messages for k, v in m.values.items()]
    n = len(messages)
    return Observations(
        bed_ids=[m.bed_id for m in messages],
        case_ids=[m.case_id for m in messages],
        ts_ms=np.array([m.ts_ms for m in messages], np.int64),
        offsets=np.arange(start, start + n, dtype=np.int64),
        broker_ms=np.full(n, NOW, np.int64),
        sizes=np.array([len(m.values) for m in messages], np.int32),
        signal=np.array([s for s, _ in flat], np.int16),
        value=np.array([v for _, v in flat], np.float64),
    )


class Ward:
    """Windows with one home, and the offset of the next message."""

    def __init__(self) -> None:
        self.home = OneHome()
        self.windows = Windows(lambda bed_id: self.home, GRID.digest)
        self.next = 0

    def say(self, *messages: Message, once: bool = False) -> Observed:
        """Deliver messages of partition 0."""
        given = observations(list(messages), self.next)
        self.next += len(messages)
        return self.windows.observe(given, 0, NOW, once=once)

    def bed(self, bed_id: str = "A") -> Bed:
        """A bed that there is."""
        bed = self.windows.bed(0, bed_id)
        assert bed is not None
        return bed

    def values(self, bed_id: str = "A") -> dict[int, float]:
        """Newest values in a bed's window by signal; none for a bed without one."""
        return newest(self.bed(bed_id))


def newest(bed: Bed) -> dict[int, float]:
    """Newest values in a bed's window."""
    if bed.slot < 0:
        return {}
    window = bed.home.store.gather(np.array([bed.slot], np.int32))
    row = window.newest_value[0]
    return {int(s): float(row[s]) for s in np.flatnonzero(~np.isnan(row))}


def case(case_id: str, admitted_ms: int = NOW - HOUR_MS, status: str = "open") -> Case:
    """A record of bed A."""
    return Case(bed_id="A", case_id=case_id, status=status, admitted_ms=admitted_ms)


@pytest.fixture
def ward() -> Ward:
    """Nothing said yet."""
    return Ward()


def test_values_land_in_their_own_beds_windows(ward: Ward) -> None:
    """Two beds in one batch, one of them twice."""
    got = ward.say(
        Message("A"), Message("B", values={"hr": 60.0}), Message("A", NOW + 1, {"map": 70.0})
    )
    assert ward.values("A") == {HR: 80, MAP: 70} and ward.values("B") == {HR: 60}
    assert got.rows == [0, 1, 2] and [b.bed_id for b in got.beds] == ["A", "B", "A"]
    assert ward.bed("A").source == 2 and ward.bed("B").source == 1


def test_a_value_out_of_bounds_costs_only_itself(ward: Ward) -> None:
    """Bounds are inclusive; null is no value and not counted."""
    got = ward.say(Message(values={"hr": 351.0, "map": 5.0, "spo2": float("nan"), "temp": -1e300}))
    assert got.skipped == {"out_of_bounds": 2} and got.rows == [0]
    assert ward.values() == {MAP: 5}


def test_an_empty_message_makes_the_bed_due(ward: Ward) -> None:
    """The bed is watched, nothing was measured: its window's end moves on."""
    ward.say(Message())
    got = ward.say(Message(ts_ms=NOW + 5_000, values={}))
    bed = ward.bed()
    assert got.beds == [bed] and bed.source == 1
    assert bed.home.store.newest_ms(np.array([bed.slot]))[0] == NOW + 5_000


def test_late_values_are_counted(ward: Ward) -> None:
    """Older than 72 hours behind the newest."""
    got = ward.say(Message(), Message(ts_ms=NOW - 73 * HOUR_MS, values={"hr": 50.0, "map": 60.0}))
    assert got.skipped == {"late": 2} and got.rows == [0, 1]


def test_redelivered_offsets_are_skipped(ward: Ward) -> None:
    """Also in the middle of a batch; another bed's lower offset is none."""
    messages = [Message(), Message("B"), Message(ts_ms=NOW + 1)]
    ward.windows.observe(observations(messages), 0, NOW)
    again = observations([*messages, Message(ts_ms=NOW + 2)])
    got = ward.windows.observe(again, 0, NOW)
    assert got.skipped == {"redelivered": 3} and got.dropped == [0, 1, 2] and got.rows == [3]


def test_a_new_case_on_record_empties_the_window_first(ward: Ward) -> None:
    """The slot may be another's then; the generation tells."""
    ward.say(Message())
    bed, generation = ward.bed(), ward.bed().generation
    assert ward.windows.case("A", 0, case("one"), NOW) is bed
    assert ward.values() == {} and bed.generation > generation and bed.source == -1
    ward.say(Message(values={"map": 70.0}))
    assert ward.values() == {MAP: 70}
    assert bed.home.store.phase_ms(np.array([bed.slot]))[0] == NOW - HOUR_MS


def test_a_new_case_in_an_observation_empties_the_window_first(ward: Ward) -> None:
    """In the middle of a batch: what came before it is the other's."""
    got = ward.say(
        Message(case_id="one"), Message(values={"map": 70.0}, ts_ms=NOW + 9, case_id="two")
    )
    assert ward.values() == {MAP: 70} and got.emptied == [ward.bed()] and got.rows == [0, 1]
    assert ward.bed().case_id == "two" and ward.bed().previous == ["one"]


def test_an_earlier_case_is_dropped(ward: Ward) -> None:
    """Its observations come late, its record too."""
    ward.windows.case("A", 0, case("one", NOW - 9 * HOUR_MS), NOW)
    ward.windows.case("A", 0, case("two"), NOW)
    got = ward.say(Message(case_id="one"), Message(case_id="two", values={"map": 70.0}))
    assert got.skipped == {"other_case": 1} and ward.values() == {MAP: 70}
    assert ward.windows.case("A", 0, case("one", NOW - 9 * HOUR_MS, "closed"), NOW) is None
    assert ward.bed().case_id == "two" and ward.values() == {MAP: 70}


def test_an_unknown_case_from_before_the_admission_is_an_earlier_one(ward: Ward) -> None:
    """After a restart the record of the present case is all that is known."""
    ward.windows.case("A", 0, case("two", NOW), NOW)
    got = ward.say(
        Message(ts_ms=NOW - 1, case_id="one"),
        Message(ts_ms=NOW + 1, case_id="two"),
        Message(ts_ms=NOW + 2, case_id="one"),
    )
    assert got.skipped == {"other_case": 2} and got.rows == [1] and ward.bed().case_id == "two"


def test_without_a_case_id_only_what_follows_the_admission_is_the_cases(ward: Ward) -> None:
    """The rule is for a case that replaced another; the first case of a bed takes all."""
    ward.windows.case("A", 0, case("one", NOW), NOW)
    assert ward.say(Message(ts_ms=NOW - 1)).skipped == {}
    ward.windows.case("A", 0, case("two", NOW + 10), NOW)
    got = ward.say(Message(ts_ms=NOW + 9), Message(ts_ms=NOW + 10))
    assert got.skipped == {"before_case": 1} and got.rows == [1]


def test_a_closed_case_takes_nothing_more(ward: Ward) -> None:
    """Neither with its id nor without one; a new case does."""
    ward.windows.case("A", 0, case("one"), NOW)
    ward.say(Message())
    assert ward.windows.case("A", 0, case("one", status="closed"), NOW) is ward.bed()
    got = ward.say(Message(), Message(case_id="one"), Message(case_id="two"))
    assert got.skipped == {"case_closed": 2} and got.rows == [2] and ward.values() == {HR: 80}


def test_a_reopened_case_begins_empty(ward: Ward) -> None:
    """Closed by mistake, or back from theatre."""
    ward.windows.case("A", 0, case("one", status="closed"), NOW)
    ward.windows.case("A", 0, case("one"), NOW)
    assert ward.say(Message(case_id="one")).rows == [0]


def test_after_a_tombstone_what_is_later_is_taken(ward: Ward) -> None:
    """The tombstone's case is an earlier case; the bed goes on without one."""
    ward.windows.case("A", 0, case("one"), NOW)
    ward.say(Message())
    assert ward.windows.case("A", 0, None, NOW + 100) is ward.bed()
    got = ward.say(
        Message(ts_ms=NOW + 100),
        Message(ts_ms=NOW + 100, case_id="two"),
        Message(ts_ms=NOW + 101, case_id="one"),
        Message(ts_ms=NOW + 101, values={"map": 70.0}),
    )
    assert got.skipped == {"case_closed": 2, "other_case": 1} and ward.values() == {MAP: 70}


def test_a_patient_can_come_back_to_a_bed(ward: Ward) -> None:
    """An open record of an earlier case, admitted after the present one, is a new stay."""
    ward.windows.case("A", 0, case("one", NOW - 9), NOW)
    ward.windows.case("A", 0, case("two", NOW - 5), NOW)
    ward.windows.case("A", 0, case("one", NOW), NOW)
    assert ward.bed().case_id == "one" and ward.bed().previous == ["two"]
    assert ward.say(Message(case_id="one"), Message(case_id="two")).rows == [0]


def test_what_is_known_of_a_case_changes_without_emptying(ward: Ward) -> None:
    """A later record of the same case."""
    ward.windows.case("A", 0, case("one"), NOW)
    ward.say(Message())
    assert ward.windows.case("A", 0, case("one", NOW - 2 * HOUR_MS), NOW) is None
    bed = ward.bed()
    assert ward.values() == {HR: 80}
    window = bed.home.store.gather(np.array([bed.slot], np.int32))
    assert window.cases == [case("one", NOW - 2 * HOUR_MS)]


def test_each_takes_one_message_of_a_bed_until_its_window_was_gathered(ward: Ward) -> None:
    """The rest waits in order; other beds go on."""
    messages = [Message("A"), Message("A", NOW + 1), Message("B"), Message("A", NOW + 2)]
    given = observations(messages)
    first = ward.windows.observe(given, 0, NOW, once=True)
    assert first.rows == [0, 2] and first.rest == [1, 3]
    held = ward.windows.observe(given, 0, NOW, first.rest, once=True)
    assert held.rows == [] and held.rest == [1, 3]
    ward.bed("A").waiting = False
    second = ward.windows.observe(given, 0, NOW, first.rest, once=True)
    assert second.rows == [1] and second.rest == [3]


def test_a_snapshot_brings_the_window_back(ward: Ward) -> None:
    """With its case, its earlier cases and how far it had read."""
    ward.say(Message(case_id="one"), Message(ts_ms=NOW + 9, case_id="two"))
    snapshot = ward.windows.snapshot(ward.bed())
    after = Ward()
    bed = after.windows.restore(snapshot)
    assert newest(bed) == {HR: 80} and bed.case_id == "two" and bed.source == 1
    again = after.windows.snapshot(bed)
    assert again == snapshot
    after.next = 1
    got = after.say(Message(case_id="two"), Message(case_id="one"), Message(ts_ms=NOW + 8))
    assert got.skipped == {"redelivered": 1, "other_case": 1, "before_case": 1}


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        (case("two"), True),
        (case("two", status="closed"), False),
        (case("one"), True),  # the record is older than the snapshot
        (case("three"), False),
        (None, False),
    ],
)
def test_the_record_decides_whether_a_snapshot_is_used(record: Case | None, kept: bool) -> None:
    """A case that has ended since does not come back; what it had read is not read again."""
    before = Ward()
    before.say(Message(case_id="one"), Message(ts_ms=NOW + 9, case_id="two"))
    after = Ward()
    after.windows.case("A", 0, record, NOW + 50)
    bed = after.windows.restore(before.windows.snapshot(before.bed()))
    assert bool(newest(bed)) is kept and bed.seen == 1
    assert after.say(Message(case_id="one", ts_ms=NOW + 60)).rows == []
    if kept:
        assert bed.case_id == "two"


def test_a_patient_who_came_back_is_not_turned_away_by_a_snapshot() -> None:
    """The record of an earlier case, admitted after the snapshot's began, is the newer one."""
    before = Ward()
    before.say(Message(case_id="one"), Message(ts_ms=NOW + 9, case_id="two"))
    after = Ward()
    after.windows.case("A", 0, case("one", NOW + 20), NOW + 50)
    bed = after.windows.restore(before.windows.snapshot(before.bed()))
    assert bed.case_id == "one" and bed.previous == ["two"] and newest(bed) == {}
    after.next = 2
    assert after.say(Message(case_id="one", ts_ms=NOW + 60)).rows == [0]


def test_a_bed_that_is_new_begins_with_what_is_on_record() -> None:
    """Earlier cases are known by name although nothing was heard of the bed."""
    on_record = Recorded()
    for taken, ms in [(case("one", NOW - 9), 1), (case("two", NOW - 5), 2)]:
        on_record = on_record.after(taken, ms)
    windows = Windows(lambda _: OneHome(), GRID.digest, lambda partition, bed_id: on_record)
    said = [Message(case_id="one"), Message(ts_ms=NOW - 6), Message(case_id="two"), Message()]
    got = windows.observe(observations(said), 0, NOW)
    assert got.rows == [2, 3] and got.skipped == {"other_case": 1, "before_case": 1}


def test_what_is_on_record_follows_the_rules_of_the_windows() -> None:
    """A late record of an earlier case changes nothing; a patient may come back; a tombstone."""
    two = Recorded().after(case("one", NOW - 9), 1).after(case("two", NOW - 5), 2)
    assert two == (case("two", NOW - 5), ("one",), -1)
    assert two.after(case("one", NOW - 9, "closed"), 3) is two
    back = two.after(case("one", NOW), 4)
    assert back == (case("one", NOW), ("two",), -1)
    assert back.after(None, 5) == (None, ("two", "one"), 5)


def test_a_damaged_snapshot_leaves_no_trace(ward: Ward) -> None:
    """The bed is read from the log instead."""
    ward.say(Message())
    snapshot = ward.windows.snapshot(ward.bed())
    after = Ward()
    bad = type(snapshot)(
        **{f: getattr(snapshot, f) for f in snapshot.__struct_fields__} | {"window": b"x"}
    )
    with pytest.raises(ValueError, match="window"):
        after.windows.restore(bad)
    assert len(after.home.free) == 2 and after.bed().seen == -1
    with pytest.raises(ValueError, match="never heard"):
        after.windows.snapshot(after.bed())


def test_beds_that_the_model_says_nothing_of_are_warming_up(ward: Ward) -> None:
    """They are counted apart until it speaks, or until they are stale."""
    ward.say(Message(), Message("B"))
    ward.bed().warming = True
    assert ward.windows.states(NOW, 30_000) == {"live": 1, "warming_up": 1, "stale": 0}
    assert ward.windows.states(NOW + 30_001, 30_000) == {"live": 0, "warming_up": 0, "stale": 2}


def test_names_of_cases_from_before_the_admission_do_not_pile_up(ward: Ward) -> None:
    """A thousand of them are dropped and cost a bounded list."""
    ward.windows.case("A", 0, case("now", NOW), NOW)
    observed = ward.say(*(Message(case_id=f"old-{i}", ts_ms=NOW - 1) for i in range(1_000)))
    assert observed.skipped == {"other_case": 1_000}
    assert len(ward.bed().previous) == 64


def test_a_revoked_partition_leaves_nothing(ward: Ward) -> None:
    """Its slots are free, its offsets forgotten."""
    ward.say(Message("A"), Message("B"), Message("C"))
    gone = ward.windows.forget(0)
    assert {bed.bed_id for bed in gone} == {"A", "B", "C"} and len(ward.windows) == 0
    assert len(ward.home.free) == ward.home.store.capacity
    ward.next = 0
    assert ward.say(Message("A")).rows == [0]


def test_partitions_are_apart(ward: Ward) -> None:
    """A bed that is sent to two partitions is two beds, each with its own offsets."""
    ward.say(Message(), Message(ts_ms=NOW + 1))
    got = ward.windows.observe(observations([Message(values={"map": 70.0})]), 1, NOW)
    assert got.rows == [0] and ward.values() == {HR: 80}


def test_beds_move_with_their_windows() -> None:
    """From a home that failed to the other; what was in its queue is due."""
    homes = [OneHome(), OneHome()]
    owner = {"A": 0, "B": 0, "C": 1}
    windows = Windows(lambda bed_id: homes[owner[bed_id]], GRID.digest)
    given = observations([Message("A"), Message("B", values={"map": 60.0}), Message("C")])
    windows.observe(given, 0, NOW)
    a, b, c = windows.beds(0)
    homes[0].due.add(b.slot)
    owner |= {"A": 1, "B": 1}
    assert windows.move(homes[0]) == [b]
    assert newest(a) == {HR: 80} and newest(b) == {MAP: 60} and newest(c) == {HR: 80}
    assert a.home is b.home is c.home and len({a.slot, b.slot, c.slot}) == 3
    assert len(homes[0].free) == homes[0].store.capacity and not homes[0].due


def test_silent_beds_and_beds_with_old_times_are_stale(ward: Ward) -> None:
    """Either makes a bed stale."""
    ward.say(Message("A"), Message("B", NOW - 40_000), Message("C"))
    assert ward.windows.states(NOW, 30_000) == {"live": 2, "warming_up": 0, "stale": 1}
    assert ward.windows.states(NOW + 30_001, 30_000) == {"live": 0, "warming_up": 0, "stale": 3}


CASES = (None, "one", "two")
ACTION = st.one_of(
    st.builds(
        lambda *m: ("say", [Message(b, NOW + t, v, c) for b, t, v, c in m]),
        *[
            st.tuples(
                st.sampled_from("AB"),
                st.integers(0, 50),
                st.dictionaries(st.sampled_from(["hr", "map"]), st.integers(40, 90).map(float)),
                st.sampled_from(CASES),
            )
        ]
        * 3,
    ),
    st.tuples(
        st.just("case"),
        st.tuples(
            st.sampled_from(["one", "two", "three"]),
            st.integers(-5, 50),
            st.sampled_from(["open", "open", "closed"]),
        ),
    ),
    st.tuples(st.just("tombstone"), st.integers(0, 30)),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTION, max_size=25))
def test_a_window_is_the_values_of_its_case(actions: list) -> None:
    """Whatever happens, a window holds what was accepted since it was last emptied: one case, one
    bed, newest wins.
    """
    ward = Ward()
    held: dict[str, list[tuple[int, dict[str, float]]]] = {"A": [], "B": []}
    lies: dict[str, str | None] = {}
    for what, argument in actions:
        if what == "say":
            messages = argument
            got = ward.say(*messages)
            assert sorted(got.rows + got.dropped) == list(range(len(messages)))
            for row, bed in zip(got.rows, got.beds, strict=True):
                said = messages[row]
                assert bed.bed_id == said.bed_id
                if said.case_id is not None and lies.get(said.bed_id) != said.case_id:
                    held[said.bed_id] = []
                    lies[said.bed_id] = said.case_id
                held[said.bed_id].append((said.ts_ms, said.values))
        elif what == "case":
            case_id, at, status = argument
            before = ward.windows.bed(0, "A")
            emptied = ward.windows.case("A", 0, case(case_id, NOW + at, status), NOW)
            assert emptied is None or emptied is before
            if emptied is not None:
                held["A"] = []
            lies["A"] = ward.bed("A").case_id
        elif what == "tombstone":
            if ward.windows.case("A", 0, None, NOW + argument) is not None:
                held["A"] = []
            lies["A"] = None
        else:
            snapshots = [ward.windows.snapshot(b) for b in ward.windows if b.slot >= 0]
            after = Ward()
            after.next = ward.next
            for snapshot in snapshots:
                old = ward.bed(snapshot.bed_id)
                if old.case is not None:
                    after.windows.case(old.bed_id, 0, old.case, NOW)
                bed = after.windows.restore(snapshot)
                assert newest(bed) == newest(old) and bed.previous == old.previous
    for bed_id, said in held.items():
        if ward.windows.bed(0, bed_id) is None:
            continue
        expected: dict[int, float] = {}
        for _, values in sorted(said, key=lambda s: s[0]):
            expected |= {INDEX[k]: v for k, v in values.items()}
        assert ward.values(bed_id) == expected


def test_a_case_known_late_cuts_the_bins_at_its_admission() -> None:
    """The observation came before the record of its case: the bins follow, the values stay."""
    home = OneHome()
    windows = Windows(lambda _: home, GRID.digest)
    windows.observe(observations([Message(case_id="c1", ts_ms=NOW)]), 0, NOW)
    bed = next(iter(windows))
    admitted = NOW - 90 * 60_000
    windows.case("A", 0, Case("A", "c1", "open", admitted), NOW)

    gathered = home.store.gather(np.array([bed.slot], np.int32))
    assert gathered.phase_ms[0] == admitted
    assert gathered.newest_value[0, HR] == 80
    assert gathered.hours[0, -1, HR] == 80
