"""The alert engine: when it speaks, when it keeps quiet, and that repeats and restarts cannot move
it.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from app.ward.actions import ALLOWED, answer
from app.ward.alerts import Engine
from app.ward.beds import Bed
from app.ward.evidence import Head, RiskHead, ScoreHead
from app.ward.policy import GAP_MS, KINDS
from app.ward.standing import Standing
from streaming.messages import Case, Input, Source

NOW = 1_800_000_000_000
STALE = 30_000
MINUTE = 60_000
PRESSURE = KINDS["hypotension"]
NEWS2 = KINDS["news2"]


def head(ts_ms: int, offset: int, **changes: Any) -> Head:
    """A prediction of bed A at a time: no risk, NEWS2 of 0, everything measured just now."""
    fields: dict[str, Any] = {
        "bed_id": "A",
        "case_id": "c1",
        "ts_ms": ts_ms,
        "produced_ms": ts_ms + 50,
        "model_version": "1",
        "status": "ok",
        "risks": {n: RiskHead(0.1, False) for n in ("sepsis", "hypotension", "hypoxaemia")},
        "scores": {"news2": ScoreHead(0.0)},
        "inputs": {n: Input(1.0, 0) for n in ("hr", "spo2", "resp", "temp", "sbp", "map", "dbp")},
        "source": Source(0, offset),
    }
    return Head(**{**fields, **changes})


LOW_PRESSURE = {"risks": {"hypotension": RiskHead(0.8, True)}}


def feed(engine: Engine, seconds: int, start_ms: int = NOW, **changes: Any) -> int:
    """A prediction each second, seen 100 ms later; returns the time after the last."""
    first = max((bed.source for bed in engine.beds.values()), default=-1) + 1
    for i in range(seconds):
        ts_ms = start_ms + i * 1_000
        engine.predict(head(ts_ms, first + i, **changes), 0, ts_ms + 100)
    return start_ms + seconds * 1_000


def test_an_alert_on_a_risk_names_the_threshold_that_its_model_shipped_with() -> None:
    """Of another version nothing is known, and nothing is told."""
    for version, told in (("1", 0.34), ("2", None)):
        engine = Engine(STALE, thresholds={"1": {"hypotension": 0.34}})
        feed(engine, 62, model_version=version, **LOW_PRESSURE)
        alert = engine.find("A", "hypotension")
        assert alert is not None and (alert.value, alert.threshold) == (0.8, told)


def kinds(engine: Engine, bed_id: str = "A") -> dict[str, str]:
    return {alert.kind: alert.state for alert in engine.alerts(bed_id)}


def test_opens_after_the_delay_and_not_before() -> None:
    """A condition must hold for as long as the policy says."""
    engine = Engine(STALE)
    at = feed(engine, PRESSURE.persist_ms // 1_000, **LOW_PRESSURE)
    assert kinds(engine) == {}

    feed(engine, 1, at, **LOW_PRESSURE)

    assert kinds(engine) == {"hypotension": "open"}
    (alert,) = engine.alerts("A")
    assert (alert.case_id, alert.priority, alert.value) == ("c1", "medium", 0.8)
    assert [change.action for change in alert.changes] == ["open"]


def test_flicker_does_not_delay_but_relief_does() -> None:
    """One reading below the line keeps the delay running; a quarter of it starts it anew."""
    engine = Engine(STALE)
    at = feed(engine, 30, **LOW_PRESSURE)
    at = feed(engine, 1, at)
    feed(engine, 31, at, **LOW_PRESSURE)
    assert kinds(engine) == {"hypotension": "open"}

    engine = Engine(STALE)
    at = feed(engine, 30, **LOW_PRESSURE)
    at = feed(engine, 20, at)
    feed(engine, 31, at, **LOW_PRESSURE)
    assert kinds(engine) == {}


def test_closes_only_after_the_hold_and_stays_quiet_for_the_refractory_time() -> None:
    """Hysteresis in time: gone for long enough closes, and what closed does not open at once."""
    engine = Engine(STALE)
    at = feed(engine, 70, **LOW_PRESSURE)
    at = feed(engine, PRESSURE.hold_ms // 1_000, at)
    assert kinds(engine) == {"hypotension": "open"}
    at = feed(engine, 1, at)
    assert kinds(engine) == {}

    at = feed(engine, 25 * 60, at, **LOW_PRESSURE)
    assert kinds(engine) == {}
    feed(engine, 6 * 60, at, **LOW_PRESSURE)
    assert kinds(engine) == {"hypotension": "open"}


def test_score_has_two_lines() -> None:
    """NEWS2 opens at 7 and is gone below 6: a 6 keeps an alert, and does not make one."""
    engine = Engine(STALE)
    at = feed(engine, 120, scores={"news2": ScoreHead(6.0)})
    assert kinds(engine) == {}
    at = feed(engine, 62, at, scores={"news2": ScoreHead(7.0)})
    assert kinds(engine) == {"news2": "open"}
    at = feed(engine, 1_000, at, scores={"news2": ScoreHead(6.0)})
    assert engine.beds["A"].timers["news2"].holds()


def test_high_priority_latches_until_somebody_answers() -> None:
    """A high alert whose condition ended stays until it is acknowledged, then closes by itself."""
    engine = Engine(STALE)
    at = feed(engine, 62, scores={"news2": ScoreHead(9.0)})
    at = feed(engine, NEWS2.hold_ms // 1_000 + 60, at)
    assert kinds(engine) == {"news2": "escalated"}

    (alert,) = engine.alerts("A")
    alert.state, alert.due_ms = "acknowledged", None
    engine.tick(at, {})

    assert kinds(engine) == {}


def test_nobody_answers_escalates() -> None:
    """An open alert that nobody answers is escalated once, at its time."""
    engine = Engine(STALE)
    at = feed(engine, 62, **LOW_PRESSURE)
    (alert,) = engine.alerts("A")
    assert alert.due_ms is not None
    engine.tick(alert.due_ms - 1, {})
    assert alert.state == "open"
    engine.tick(alert.due_ms, {})
    assert (alert.state, alert.changes[-1].action) == ("escalated", "escalate")
    engine.tick(at + 30 * MINUTE, {})
    assert alert.version == 2


def test_snooze_ends() -> None:
    """A snoozed alert comes back when its time is over, with a new deadline for an answer."""
    engine = Engine(STALE)
    at = feed(engine, 62, **LOW_PRESSURE)
    (alert,) = engine.alerts("A")
    alert.state, alert.due_ms = "snoozed", at + 5 * MINUTE
    at = feed(engine, 5 * 60 + 2, at, **LOW_PRESSURE)
    assert alert.state == "open"
    assert alert.due_ms is not None and alert.due_ms > at


def test_stale_when_made_says_nothing() -> None:
    """A recorded stay, far behind the wall clock, raises no clinical alert."""
    engine = Engine(STALE)
    for i in range(600):
        ts_ms = NOW + i * 1_000
        old = head(ts_ms, i, produced_ms=ts_ms + STALE + 1, **LOW_PRESSURE)
        engine.predict(old, 0, ts_ms + STALE + 2)
    assert kinds(engine) == {}


def test_backlog_opens_nothing_until_it_is_live_again() -> None:
    """Predictions read late count as what they were, but an alert opens only on a live one."""
    engine = Engine(STALE)
    for i in range(300):
        engine.predict(head(NOW + i * 1_000, i, **LOW_PRESSURE), 0, NOW + 400_000)
    assert kinds(engine) == {}
    engine.predict(head(NOW + 400_000, 300, **LOW_PRESSURE), 0, NOW + 400_100)
    assert kinds(engine) == {"hypotension": "open"}


def test_old_inputs_say_nothing() -> None:
    """A risk that stands on values too old is no ground for an alert."""
    engine = Engine(STALE)
    old = {"map": Input(50.0, 16 * MINUTE), "sbp": Input(80.0, 16 * MINUTE)}
    feed(engine, 120, inputs=old, **LOW_PRESSURE)
    assert kinds(engine) == {}


def test_untrue_inputs_say_nothing() -> None:
    """While the saturation cannot be true, no alert about it opens; a technical one does."""
    engine = Engine(STALE)
    risk = {"risks": {"hypoxaemia": RiskHead(0.9, True)}}
    for i in range(120):
        at = NOW + i * 1_000
        engine.observe("A", 0, "c1", at, {"spo2": 250.0}, at + 10, at + 20)
        engine.predict(head(at, i, **risk), 0, at + 100)
    assert kinds(engine) == {"implausible": "open"}
    (alert,) = engine.alerts("A")
    assert (alert.value, alert.threshold) == (250.0, 100.0)
    assert alert.changes[0].reason == "spo2: above what is possible"


def test_frozen_feed_is_implausible() -> None:
    """Values that all stand still for a quarter of an hour are not the patient's; one may be."""
    for moving, expected in ((0.0, {"implausible": "open"}), (0.1, {})):
        engine = Engine(STALE)
        for i in range(16 * 60):
            at = NOW + i * 1_000
            values = {"hr": 80.0, "resp": 14.0, "spo2": 97.0 + moving * (i % 7)}
            engine.observe("A", 0, None, at, values, at, at)
        assert kinds(engine) == expected


def test_long_gap_forgets_what_was_half_known() -> None:
    """A positive before and one after a gap are not a condition that held all along."""
    engine = Engine(STALE)
    at = feed(engine, 30, **LOW_PRESSURE) + GAP_MS + 1
    feed(engine, 2, at, **LOW_PRESSURE)
    assert kinds(engine) == {}


def test_silence_is_told_once_and_ends_with_the_next_word() -> None:
    """A live bed that falls silent raises a technical alert; the next observation ends it."""
    engine = Engine(STALE)
    engine.observe("A", 0, None, NOW, {"hr": 80.0}, NOW, NOW)
    since = {0: NOW - 1}
    engine.tick(NOW + STALE, since)
    assert kinds(engine) == {}
    engine.tick(NOW + STALE + 1, since)
    engine.tick(NOW + STALE + 2, since)
    assert kinds(engine) == {"silence": "open"}
    assert len(engine.moved) == 1
    engine.observe("A", 0, None, NOW + 60_000, {}, NOW + 60_000, NOW + 60_000)
    assert kinds(engine) == {}


def test_silence_counts_only_while_listening() -> None:
    """After a restart or a broker's absence, silence begins when all is read."""
    engine = Engine(STALE)
    engine.observe("A", 0, None, NOW, {}, NOW, NOW)
    later = NOW + 3_600_000
    engine.tick(later, {})
    engine.tick(later, {1: NOW})
    engine.tick(later, {0: later - STALE})
    assert kinds(engine) == {}
    engine.tick(later + 1, {0: later - STALE})
    assert kinds(engine) == {"silence": "open"}


def test_recorded_bed_is_not_missed() -> None:
    """A bed that only ever spoke of a past time does not fall silent."""
    engine = Engine(STALE)
    engine.observe("A", 0, None, NOW - STALE - 1, {"hr": 80.0}, NOW, NOW)
    engine.tick(NOW + 10 * STALE, {0: NOW})
    assert kinds(engine) == {}


def case(case_id: str, status: Any = "open") -> Case:
    return Case("A", case_id, status, NOW - 3_600_000)


def test_another_case_closes_what_stood_for_the_one_before() -> None:
    """A new patient starts without alerts, and late predictions of the old one move nothing."""
    engine = Engine(STALE)
    engine.case("A", 0, case("c1"), NOW, NOW)
    at = feed(engine, 62, **LOW_PRESSURE)
    engine.case("A", 0, case("c2"), at, at)
    assert kinds(engine) == {}
    assert [a.state for a in engine.moved.values()] == ["closed"]
    feed(engine, 120, at, **LOW_PRESSURE)
    assert kinds(engine) == {}
    feed(engine, 120, at, case_id="c2", **LOW_PRESSURE)
    assert kinds(engine) == {"hypotension": "open"}


def test_closed_case_and_tombstone_end_everything() -> None:
    """An empty bed has no alerts and is not missed when it is silent."""
    for end in (case("c1", "closed"), None):
        engine = Engine(STALE)
        engine.observe("A", 0, "c1", NOW, {}, NOW, NOW)
        at = feed(engine, 62, **LOW_PRESSURE)
        engine.case("A", 0, end, at, at)
        engine.tick(at + 10 * STALE, {0: NOW})
        assert kinds(engine) == {}


def test_another_writer_wins() -> None:
    """What the database has replaces what is remembered, and the next step goes on from there."""
    engine = Engine(STALE)
    feed(engine, 62, **LOW_PRESSURE)
    (alert,) = engine.alerts("A")
    theirs = copy.deepcopy(alert)
    theirs.state, theirs.version, theirs.due_ms = "acknowledged", alert.version + 1, None
    engine.adopt(theirs)
    assert kinds(engine) == {"hypotension": "acknowledged"}
    assert engine.moved == {}


steps = st.lists(
    st.tuples(
        st.sampled_from([1_000, 5_000, 20_000, 120_000, 700_000]),
        st.sampled_from(["low", "well", "news2", "silent", "unknown", "impossible"]),
        st.integers(0, 1),
        st.sampled_from(["", "c1", "c2"]),
        st.sampled_from(["", "acknowledge", "snooze", "escalate"]),
    ),
    max_size=60,
)


def restart(engine: Engine) -> Engine:
    """An engine from what the database would hold."""
    beds = [msgspec.json.decode(msgspec.json.encode(bed), type=Bed) for bed in engine.beds.values()]
    return Engine(STALE, beds, [copy.deepcopy(a) for b in engine.beds for a in engine.alerts(b)])


def play(script: list[Any], repeats: bool, restarts: bool) -> list[Any]:
    """Run a script; with repeats each prediction comes twice, with restarts after each step."""
    engine = Engine(STALE)
    told: dict[str, Standing] = {}
    now = NOW
    seen: list[Any] = []
    for i, (step_ms, what, late, case_id, action) in enumerate(script):
        now += step_ms
        values = {"hr": 500.0} if what == "impossible" else {"hr": 60.0 + i}
        given = {
            "low": LOW_PRESSURE,
            "news2": {"scores": {"news2": ScoreHead(8.0)}},
            "unknown": {"status": "warming_up", "risks": {}},
        }.get(what, {})
        if what != "silent":
            engine.observe("A", 0, case_id or None, now, values, now, now)
            produced = now + late * (STALE + 1)
            one = head(now, i, case_id=case_id or None, produced_ms=produced, **given)
            engine.predict(one, 0, now)
            if repeats:
                before = copy.deepcopy((engine.beds, engine.alerts("A")))
                assert not engine.predict(one, 0, now)
                assert (engine.beds, engine.alerts("A")) == before
        engine.tick(now, {0: NOW})
        for alert in engine.alerts("A"):
            if action and alert.state in ALLOWED[action]:  # type: ignore[index]
                result = answer(alert.state, action, None, now)  # type: ignore[arg-type]
                alert.move(result.state, action, now, result.due_ms, None)
        told.update({alert.id: copy.deepcopy(alert) for alert in engine.moved.values()})
        standing = engine.alerts("A")
        assert len({alert.kind for alert in standing}) == len(standing)
        assert all(alert.state != "closed" for alert in standing)
        assert all(alert.case_id == engine.beds["A"].case_id for alert in standing)
        assert all(alert.state != "snoozed" or alert.due_ms for alert in standing)
        for alert in engine.moved.values():
            assert alert.version - alert.written == len(alert.changes)
        seen.append(sorted((a.id, a.kind, a.state, a.due_ms, a.version) for a in standing))
        if restarts:
            engine = restart(engine)
    return seen


@given(steps)
def test_repeats_and_restarts_change_nothing(script: list[Any]) -> None:
    """Whatever happens at a bed, repeats and restarts in between lead to the same alerts."""
    plain = play(script, repeats=False, restarts=False)
    assert play(script, repeats=True, restarts=False) == plain
    assert play(script, repeats=True, restarts=True) == plain


def test_beds_that_are_silent_for_days_are_forgotten() -> None:
    """But not one whose alert stands, nor one that is not written yet."""
    engine = Engine(STALE)
    at = feed(engine, PRESSURE.persist_ms // 1_000 + 1, **LOW_PRESSURE)
    engine.observe("calm", 0, None, NOW, {"hr": 80.0}, NOW, NOW)
    engine.observe("late", 0, None, at, {"hr": 80.0}, at, at + 9)
    assert engine.forget(at + 1) == 0
    engine.dirty.clear()
    assert engine.forget(at + 1) == 1
    assert set(engine.beds) == {"A", "late"} and kinds(engine) == {"hypotension": "open"}


def test_there_is_room_for_so_many_beds() -> None:
    """A bed that is known keeps its place."""
    engine = Engine(STALE, most_beds=1)
    assert engine.room("A")
    feed(engine, 1)
    assert engine.room("A") and not engine.room("B")
