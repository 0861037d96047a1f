"""Compacted topics followed whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from streaming.codec import encode
from streaming.follow import Cases, Urgent
from streaming.messages import Alert, AlertState, Case, Priority


def record(key: str, value: bytes | None, offset: int = 0) -> Any:
    """A record of partition 3."""
    return SimpleNamespace(
        topic="t", partition=3, offset=offset, key=key.encode(), value=value, timestamp=offset
    )


def case(bed_id: str, case_id: str = "c") -> Any:
    """A record of an open case."""
    return record(bed_id, encode(Case(bed_id, case_id, "open", 0)))


def test_cases_of_strangers_find_an_end() -> None:
    """Beyond `most` a bed is refused unless it is watched; known beds are kept up to date."""
    outcomes: list[str] = []
    telemetry: Any = SimpleNamespace(message=lambda topic, outcome: outcomes.append(outcome))
    cases = Cases("", lambda *change: None, telemetry, 2, lambda _, bed_id: bed_id == "watched")
    for taken in (case("a"), case("b"), case("x"), case("watched"), case("a", "next")):
        cases._take(taken)
    assert outcomes == ["accepted", "accepted", "refused", "accepted", "accepted"]
    assert cases.known(3, "x") is None
    found = cases.known(3, "a")
    assert found is not None and found.case is not None
    assert (found.case.case_id, found.earlier) == ("next", ("c",))


def test_a_bed_is_urgent_while_a_high_alert_is_open() -> None:
    """Two alerts, each with its own end; a bed without one takes no room."""

    def alert(alert_id: str, priority: Priority, state: AlertState) -> Any:
        return record(
            "a", encode(Alert(alert_id, "a", "c", "k", priority, state, 0, 0, None, None))
        )

    urgent = Urgent("")
    urgent._take(alert("1", "medium", "open"))
    assert urgent.beds == {}
    urgent._take(alert("1", "high", "open"))
    urgent._take(alert("2", "high", "escalated"))
    urgent._take(alert("1", "high", "closed"))
    assert "a" in urgent.beds
    urgent._take(alert("2", "high", "acknowledged"))
    assert urgent.beds == {}
    urgent._take(alert("3", "high", "open"))
    urgent._take(record("a", None))
    urgent._take(record("a", b"{"))
    assert urgent.beds == {}
