"""The simulated ward: the same every time, plausible, and with patients worth looking at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import signals
from streaming.codec import decode_case, encode
from streaming.simulator.patients import SCENARIOS, admit, bed_id
from streaming.simulator.ward import Ward

NOW_MS = 1_795_409_001_078
HOUR_MS = 3_600_000


def live(ward, seconds, period_ms=1_000):
    return [m for k in range(seconds) for m in ward.tick(NOW_MS + k * period_ms, period_ms)]


def of(messages, bed, name):
    return [m.values[name] for m in messages if m.bed_id == bed and name in m.values]


def first(ward, scenario):
    return ward.patients.bed_ids[
        int(np.flatnonzero(ward.patients.scenario == SCENARIOS.index(scenario))[0])
    ]


def past(ward):
    return [message for step in ward.history() for message in step]


def test_the_same_seed_is_the_same_ward():
    """Cases, history and live messages agree to the byte."""

    def everything(seed):
        ward = Ward(5, seed, NOW_MS, 3.0)
        return [encode(m) for m in [*ward.cases, *past(ward), *live(ward, 70)]]

    assert everything(7) == everything(7)
    assert everything(7) != everything(8)


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_every_value_lies_within_the_catalogues_bounds(seed, beds):
    """What a simulated monitor says is never dropped as implausible."""
    ward = Ward(beds, seed, NOW_MS, 4.0)
    for message in [*past(ward), *live(ward, 5)]:
        for name, value in message.values.items():
            if not np.isnan(value):
                at = signals.INDEX[name]
                assert signals.LOW[at] <= value <= signals.HIGH[at], (name, value)


def test_cases_are_valid_messages_and_come_before_their_values():
    """Each decodes, is open, and was admitted before the first value."""
    ward = Ward(50, 3, NOW_MS, 24.0)
    earliest = min(m.ts_ms for m in past(ward))

    for case in ward.cases:
        assert decode_case(encode(case), case.bed_id.encode()) == case
        assert case.status == "open"
        assert case.hospital_admitted_ms <= case.admitted_ms < earliest
    prefixes = {p.split(":")[0] for case in ward.cases for p in case.problems}
    assert prefixes == {"ICD10", "ORPHA"}


def test_history_reaches_back_and_never_past_the_start():
    """A quarter of an hour apart at first, a minute apart in the last two hours."""
    ward = Ward(2, 1, NOW_MS, 24.0)
    times = sorted({m.ts_ms for m in past(ward)})

    assert times[0] == NOW_MS - 24 * HOUR_MS
    assert times[-1] == NOW_MS - 60_000
    assert set(np.diff(times)) == {15 * 60_000, 60_000}
    assert sum(t >= NOW_MS - 2 * HOUR_MS for t in times) == 120


def test_a_tick_is_spread_evenly_and_sees_every_bed():
    """One message a bed, each at its own moment of the period."""
    ward = Ward(40, 1, NOW_MS, artefacts=0)
    messages = ward.tick(NOW_MS, 1_000)[:40]

    assert [m.bed_id for m in messages] == list(ward.patients.bed_ids)
    assert [m.ts_ms - NOW_MS for m in messages] == [i * 25 for i in range(40)]


def test_every_bed_is_seen_in_the_first_second_whatever_goes_wrong():
    """Artefacts wait until a ward was seen whole."""
    ward = Ward(24, 9, NOW_MS, artefacts=10)

    assert {m.bed_id for m in ward.tick(NOW_MS)} == set(ward.patients.bed_ids)


def test_pressures_belong_together():
    """Mean lies between diastolic and systolic, a third of the way."""
    for message in live(Ward(20, 2, NOW_MS, artefacts=0), 20):
        v = message.values
        if "sbp" in v:
            assert v["dbp"] < v["map"] < v["sbp"]
            assert v["map"] == pytest.approx(v["dbp"] + (v["sbp"] - v["dbp"]) / 3, abs=1.1)


def test_heart_rate_moves_with_the_breath():
    """Respiratory sinus arrhythmia: among the fast swings, breathing's pace stands out."""
    ward = Ward(30, 4, NOW_MS, artefacts=0)
    bed = first(ward, "stable")
    messages = live(ward, 256)
    rate = np.array(of(messages, bed, "hr"))
    breaths = np.mean(of(messages, bed, "resp")) / 60
    spectrum = np.abs(np.fft.rfft(rate - rate.mean())) ** 2
    hertz = np.fft.rfftfreq(len(rate), 1.0)
    band = np.abs(hertz - breaths) < 0.05
    elsewhere = (hertz > 0.05) & ~band

    assert spectrum[band].mean() > 3 * spectrum[elsewhere].mean()


def test_drive_moves_rate_and_pressure_together():
    """Over hours a stable patient's heart rate and pressure rise and fall together."""
    ward = Ward(12, 6, NOW_MS, 24.0)
    messages = past(ward)
    both = [
        np.corrcoef(of(messages, bed, "hr"), of(messages, bed, "sbp"))[0, 1]
        for i, bed in enumerate(ward.patients.bed_ids)
        if ward.patients.scenario[i] == 0
    ]

    assert np.mean(both) > 0.3


def test_sepsis_lowers_pressure_and_raises_fever_lactate_and_white_cells():
    """The textbook's course, between the day's start and the monitors going live."""
    ward = Ward(8, 7, NOW_MS, 24.0)
    bed = first(ward, "sepsis")
    messages = past(ward)

    def change(name):
        found = of(messages, bed, name)
        return np.mean(found[-3:]) - np.mean(found[:3])

    assert change("map") < -12
    assert change("hr") > 20
    assert change("temp") > 0.8
    assert change("resp") > 4
    assert of(messages, bed, "lactate")[-1] > of(messages, bed, "lactate")[0] + 1
    assert of(messages, bed, "wbc")[-1] > of(messages, bed, "wbc")[0] + 3


def test_bleeding_lowers_haemoglobin_and_pressure():
    """Four hours after its onset; treated later, it subsides."""
    ward = Ward(8, 7, NOW_MS)
    bed = ward.patients.bed_ids.index(first(ward, "bleeding"))
    onset_ms = NOW_MS + int(ward.patients.onset_s[bed] * 1_000)
    before, during, after = (
        float(ward._body.severity((onset_ms + h * HOUR_MS - NOW_MS) / 1_000)[bed])
        for h in (-1, 4, 14)
    )

    assert before < 0.05
    assert during > 0.9
    assert after < 0.05


def test_desaturation_comes_and_goes():
    """Saturation falls below 90 % for minutes and recovers."""
    ward = Ward(8, 7, NOW_MS, artefacts=0)
    bed = first(ward, "desaturation")
    seen = of(live(ward, 1_200, 2_000), bed, "spo2")

    assert min(seen) < 90
    assert np.median(seen) > 92


def test_arrhythmia_is_fast_and_irregular_in_episodes():
    """The rate jumps by tens and comes back."""
    ward = Ward(8, 7, NOW_MS, artefacts=0)
    seen = of(live(ward, 1_200, 2_000), first(ward, "arrhythmia"), "hr")

    assert max(seen) - np.median(seen) > 35


def test_a_stable_patient_stays_as_they_are():
    """No drift over a day."""
    ward = Ward(8, 7, NOW_MS, 24.0)
    messages = past(ward)
    bed = first(ward, "stable")
    pressure = of(messages, bed, "map")

    assert abs(np.mean(pressure[-60:]) - np.mean(pressure[:60])) < 15
    assert max(of(messages, bed, "lactate")) < 3.5


def test_what_goes_wrong_on_wards_goes_wrong_here():
    """Loose leads say null, messages come twice, late or not at all, and clocks differ."""
    ward = Ward(60, 5, NOW_MS, artefacts=3)
    ticks = [ward.tick(NOW_MS + k * 1_000) for k in range(900)]
    messages = [m for tick in ticks for m in tick if m.seq is not None]
    ids = [(m.bed_id, m.seq) for m in messages]

    assert any(np.isnan(v) for m in messages for v in m.values.values())
    assert b"null" in b"".join(encode(m) for m in messages)
    assert len(set(ids)) < len(ids)
    newest = {}
    late = 0
    for m in messages:
        late += m.seq < newest.get(m.bed_id, 0)
        newest[m.bed_id] = max(m.seq, newest.get(m.bed_id, 0))
    assert late > 0
    assert min(len({m.bed_id for m in tick}) for tick in ticks) < 60
    assert len({(m.ts_ms - NOW_MS) % 1_000 for m in ticks[0]}) > 30


def test_without_artefacts_nothing_goes_wrong():
    """A load test counts every message."""
    ward = Ward(30, 5, NOW_MS, artefacts=0)
    messages = [m for m in live(ward, 300) if m.seq is not None]

    assert len(messages) == 300 * 30
    assert not any(np.isnan(v) for m in messages for v in m.values.values())


def test_laboratory_and_bedside_values_come_in_rounds():
    """Charting each hour, gases every four, blood counts every six."""
    ward = Ward(4, 2, NOW_MS, 24.0)
    messages = past(ward)
    bed = ward.patients.bed_ids[0]

    assert len(of(messages, bed, "gcs")) == 24
    assert len(of(messages, bed, "ph")) == 6
    assert len(of(messages, bed, "wbc")) == 4


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_bed_ids_are_distinct(one, other):
    """Also past the 26th bay."""
    assert (bed_id(one) == bed_id(other)) == (one == other)


def test_bays_are_named_as_spreadsheets_name_columns():
    """24 beds a bay."""
    assert [bed_id(i) for i in (0, 23, 24, 26 * 24)] == ["A-01", "A-24", "B-01", "AA-01"]


def test_a_small_ward_shows_every_scenario():
    """Seven beds hold one of each."""
    assert set(admit(7, 1).scenario) == set(range(len(SCENARIOS)))


def test_a_ward_without_beds_is_refused():
    """At least one."""
    with pytest.raises(ValueError, match="beds"):
        Ward(0, 1, NOW_MS)
