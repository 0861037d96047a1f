"""The policy on hourly rows is the ward's own engine, fed minute by minute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.roles.evaluate import shipped_policy
from app.ward.alerts import Engine
from app.ward.evidence import Head, RiskHead
from models.evaluation.alarm_policy import Alerts, Course, alerts, judged, operating_curve, reaching
from models.evaluation.bootstrap import Draws
from models.evaluation.cohort import Cohort
from streaming.messages import Input, Source

HOUR_MS = 3_600_000
START_MS = 1_795_400_000_000
POLICY = shipped_policy()


def by_the_engine(hours: list[bool | None]) -> list[float]:
    """Openings in hours, with a person who answers at once."""
    engine = Engine(30_000)
    opened: list[float] = []
    offset = 0
    for minute in range(60 * len(hours)):
        holds = hours[minute // 60]
        now = START_MS + minute * 60_000
        if holds is not None:
            offset += 1
            inputs = {name: Input(1.0, 0) for name in POLICY.fresh}
            risks = {"sepsis": RiskHead(0.5 if holds else 0.01, holds)}
            source = Source(0, offset)
            head = Head("a", "c", now, now, "m", "ok", risks, {}, inputs, source)
            engine.predict(head, 0, now)
        engine.tick(now, {})
        alert = engine.find("a", "sepsis")
        if alert is not None and alert.state == "open":
            opened.append(minute / 60)
            alert.move("acknowledged", "acknowledge", now, None, None)
    return opened


@settings(max_examples=40)
@given(st.lists(st.sampled_from([True, True, False, None]), min_size=1, max_size=22))
def test_hourly_rows_open_what_the_engine_opens(hours: list[bool | None]) -> None:
    """The same alerts at the same times, but for the minutes of its steps."""
    said = np.array([[np.nan if h is None else float(h) for h in hours]], np.float32)
    found = alerts(said, np.array([len(hours)]), 0.5, POLICY)
    expected = by_the_engine(hours)
    assert len(found.time) == len(expected)
    np.testing.assert_allclose(found.time, expected, atol=3 / 60)


def cohort_of(labels: list[list[int]], fresh: int = 0xFFFF) -> tuple[Cohort, np.ndarray]:
    counts = [len(row) for row in labels]
    n, p = sum(counts), len(labels)
    said = np.full((n, 4), -1, np.int8)
    said[:, 0] = np.concatenate(labels)
    text = np.full(p, "")
    cohort = Cohort(
        record=np.arange(p).astype(np.str_),
        source=np.zeros(p, np.int8),
        part=np.zeros(p, np.int8),
        hospital=text,
        unit=text,
        sex=text,
        age=np.full(p, 60, np.float32),
        apache=np.full(p, np.nan, np.float32),
        expert=np.full(p, -1, np.int8),
        stay=np.repeat(np.arange(p), counts),
        hour=np.concatenate([np.arange(c) for c in counts]),
        labels=said,
        score=np.zeros((n, 5), np.float32),
        newest=np.zeros((n, 2), np.float32),
        fresh=np.full(n, fresh, np.uint16),
    )
    return cohort, np.arange(n)


def test_caught_is_an_alert_before_onset() -> None:
    """Onset is six hours after the label's first 1; an alert after it catches nobody."""
    septic = [0] * 10 + [1] * 10
    cohort, row = cohort_of([septic, septic, [0] * 20])
    course = Course(cohort, row, POLICY)
    assert course.onset.tolist() == [16.0, 16.0, np.inf]
    found = Alerts(np.array([0, 1, 2]), np.array([15.0, 17.0, 3.0]), np.full(3, np.inf))
    said = judged(course, found, None)
    assert said["septic_stays_caught_before_onset"] == 0.5
    assert said["ppv_of_alerts"] == pytest.approx(2 / 3, abs=1e-3)
    assert said["ppv_of_alerting_stays"] == pytest.approx(2 / 3, abs=1e-3)
    assert said["alerts_per_patient_day"] == pytest.approx(3 / 2.5)
    assert said["lead_time_h"]["median"] == 1.0
    with_intervals = judged(course, found, Draws(course.stays, 20))
    assert with_intervals["septic_stays_caught_before_onset"]["value"] == 0.5


def test_an_old_alert_that_is_over_does_not_stand_before_onset() -> None:
    """Caught it is, yet nothing stood in the twelve hours before."""
    cohort, row = cohort_of([[0] * 40 + [1] * 8])
    course = Course(cohort, row, POLICY)
    found = Alerts(np.array([0]), np.array([2.0]), np.array([9.0]))
    said = judged(course, found, None)
    assert said["septic_stays_caught_before_onset"] == 1.0
    assert said["alert_standing_within_12_h_before_onset"] == 0.0


def test_rows_without_fresh_signals_say_nothing() -> None:
    """As in the ward, an alert needs signals that were just measured."""
    cohort, row = cohort_of([[0] * 12], fresh=1)
    course = Course(cohort, row, POLICY)
    assert np.isnan(course.grid(np.ones(12))).all()


def test_the_target_is_found_on_the_curve() -> None:
    """A perfect risk reaches it; one that never tells does not."""
    labels = [[0] * 8 + [1] * 8 if i % 4 == 0 else [0] * 16 for i in range(40)]
    cohort, row = cohort_of(labels)
    course = Course(cohort, row, POLICY)
    perfect = cohort.label("sepsis").astype(np.float64)
    found = reaching(operating_curve(course, perfect, POLICY))
    assert found["reached"] and found["quietest_with_80_percent"]["recall"] == 1.0
    assert not reaching(operating_curve(course, 1 - perfect, POLICY), burden=0.01)["reached"]
