"""The newest state of the ward."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from app.api.view import FORGET_MS, BedChange, LatestView
from streaming.messages import Alert, Case

NOW = 1_795_000_000_000


def prediction(offset: int, ts_ms: int = NOW, bed: str = "A", case: str | None = "c1") -> bytes:
    """A prediction, of which the view reads the head only."""
    return json.dumps(
        {
            "bed_id": bed,
            "case_id": case,
            "ts_ms": ts_ms,
            "produced_ms": ts_ms,
            "source": {"partition": 0, "offset": offset},
            "risks": {},
        }
    ).encode()


def case(case_id: str, status: str = "open") -> Case:
    """A case in bed A."""
    return Case("A", case_id, status, NOW - 1_000)  # type: ignore[arg-type]


def shown(view: LatestView) -> int | None:
    """Offset of the prediction that bed A shows."""
    bed = view.bed("A", NOW)
    if bed is None or bed.prediction is None:
        return None
    return int(json.loads(bytes(bed.prediction))["source"]["offset"])


def alert(state: str = "open", updated_ms: int = NOW) -> Alert:
    """An alert of bed A."""
    return Alert("a1", "A", "c1", "sepsis", "high", state, NOW, updated_ms, 0.5, 0.3)  # type: ignore[arg-type]


@given(st.permutations(range(8)))
def test_the_highest_offset_wins_in_any_order(offsets: list[int]) -> None:
    """Repeats after a restart come late and change nothing."""
    view = LatestView(30_000)
    for offset in offsets:
        view.prediction(prediction(offset, NOW + offset), NOW, NOW)

    assert shown(view) == 7


def test_offsets_that_begin_again_come_with_later_times() -> None:
    """A topic that was made anew does not freeze the ward."""
    view = LatestView(30_000)
    view.prediction(prediction(900), NOW, NOW)

    assert view.prediction(prediction(1, NOW + 5_000), NOW + 5_000, NOW)
    assert shown(view) == 1


def test_a_new_case_replaces_and_the_earlier_never_returns() -> None:
    """A bed never shows another patient's risks."""
    view = LatestView(30_000)
    view.prediction(prediction(5), NOW, NOW)
    view.case("A", case("c2"), NOW + 10, NOW)

    assert shown(view) is None
    assert not view.prediction(prediction(6), NOW + 20, NOW)
    assert shown(view) is None
    assert view.prediction(prediction(7, case="c2"), NOW + 30, NOW)
    assert shown(view) == 7


def test_a_prediction_that_knows_no_case_yet_does_not_undo_the_case() -> None:
    """The worker reads of a case a moment after the view; the case's predictions are not lost."""
    view = LatestView(30_000)
    view.case("A", case("c1"), NOW, NOW)

    assert not view.prediction(prediction(1, case=None), NOW + 5, NOW)
    assert view.prediction(prediction(2, case="c1"), NOW + 10, NOW)
    assert shown(view) == 2


def test_a_case_that_only_observations_name_replaces_too() -> None:
    """Not every hospital sends cases."""
    view = LatestView(30_000)
    view.case("A", case("c1"), NOW, NOW)
    view.prediction(prediction(5), NOW + 1, NOW)
    view.prediction(prediction(6, case="c2"), NOW + 2, NOW)

    assert view.bed("A", NOW).case_id == "c2"  # type: ignore[union-attr]
    assert not view.prediction(prediction(7, case="c1"), NOW + 3, NOW)
    assert shown(view) == 6


def test_closed_and_tombstone_clear_the_bed() -> None:
    """Nobody lies there: no risk is shown, and what comes late of the patient is dropped."""
    for end in (case("c1", "closed"), None):
        changes: list[BedChange] = []
        view = LatestView(30_000, changed=changes.append)
        view.case("A", case("c1"), NOW, NOW)
        view.prediction(prediction(5), NOW + 1, NOW)
        view.case("A", end, NOW + 2, NOW)

        assert shown(view) is None
        assert changes[-1].cleared
        assert not view.prediction(prediction(6), NOW + 3, NOW)
        assert [bed.bed_id for bed in view.beds(NOW)] == []


def test_silence_and_old_event_times_are_stale() -> None:
    """Either is enough."""
    view = LatestView(30_000)
    view.prediction(prediction(1), NOW, NOW)
    view.prediction(prediction(1, NOW - 60_000, bed="B"), NOW, NOW)

    assert [bed.stale for bed in view.beds(NOW)] == [False, True]
    assert [bed.stale for bed in view.beds(NOW + 31_000)] == [True, True]


def test_a_bed_that_becomes_stale_is_told_once() -> None:
    """The page learns of silence, which sends nothing by itself."""
    changes: list[BedChange] = []
    view = LatestView(30_000, changed=changes.append)
    view.prediction(prediction(1), NOW, NOW)
    changes.clear()
    for second in range(60):
        view.sweep(NOW + second * 1_000)

    assert [(change.bed_id, change.stale) for change in changes] == [("A", True)]


def test_alerts_are_counted_until_closed_and_never_go_back() -> None:
    """An older state of an alert that arrives later is ignored."""
    view = LatestView(30_000)
    view.alert(alert(), NOW)
    view.alert(alert("acknowledged", NOW + 5), NOW)
    view.alert(alert("open", NOW + 1), NOW)

    detail = view.bed("A", NOW)
    assert detail is not None
    assert [a.state for a in detail.alerts] == ["acknowledged"]
    view.alert(alert("closed", NOW + 9), NOW)
    assert view.bed("A", NOW).open_alerts == 0  # type: ignore[union-attr]


def test_strangers_find_no_room_and_are_counted() -> None:
    """Beds, cases and alerts of beds beyond `most_beds` are refused; known beds go on."""
    refused: list[None] = []
    view = LatestView(30_000, refused=lambda: refused.append(None), most_beds=1)
    view.prediction(prediction(1), NOW, NOW)
    view.case("X", case("c2"), NOW, NOW)
    view.prediction(prediction(1, bed="Y"), NOW, NOW)
    assert [bed.bed_id for bed in view.beds(NOW)] == ["A"]
    assert len(refused) == 2
    assert view.prediction(prediction(2, NOW + 1), NOW + 1, NOW)


def test_a_forgotten_bed_is_told_and_leaves_room() -> None:
    """Silent for a day, without an open case or alert."""
    forgotten: list[str] = []
    view = LatestView(30_000, forgotten=forgotten.append, most_beds=1)
    view.prediction(prediction(1), NOW, NOW)
    view.sweep(NOW + FORGET_MS + 1)
    assert forgotten == ["A"] and view.beds(NOW) == []


def test_earlier_cases_find_an_end() -> None:
    """The newest are remembered, however many cases are named."""
    view = LatestView(30_000)
    for n in range(200):
        view.case("A", case(f"c{n}"), NOW + n, NOW)
    assert len(view._beds["A"].earlier) == 64
    assert "c198" in view._beds["A"].earlier
