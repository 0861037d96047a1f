"""The ward's books: what goes in once is written once, whatever is repeated, lost or taken over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from app.ward import desk as desk_module
from app.ward.database import DatabaseGone
from app.ward.desk import TOPICS, Desk
from app.ward.ledger import Fenced, Ledger
from app.ward.store import Store
from streaming.messages import (
    CASES,
    PREDICTIONS,
    VITALS,
    Case,
    Input,
    Prediction,
    Risk,
    Score,
    Source,
)

NOW = 1_800_000_020_000
STALE = 30_000


@dataclass
class Record:
    """A Kafka record, as far as the desk looks at it."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes | None
    timestamp_type: int = 0


def observation(offset: int, ts_ms: int, bed: str = "A", **values: float | None) -> Record:
    body = {"bed_id": bed, "ts_ms": ts_ms, "values": values}
    return Record(offset, ts_ms + 5, bed.encode(), msgspec.json.encode(body))


def prediction(
    offset: int, ts_ms: int, source: int | None = None, low: bool = False, case_id: str = "c1"
) -> Record:
    body = Prediction(
        bed_id="A",
        case_id=case_id,
        ts_ms=ts_ms,
        produced_ms=ts_ms + 20,
        model="m",
        model_version="1",
        status="ok",
        risks={"hypotension": Risk(0.9 if low else 0.1, 0.05, 0.95, low)},
        experts={"general": 1.0},
        novelty=0.1,
        scores={"news2": Score(1.0, [])},
        inputs={"map": Input(60.0, 0)},
        drivers=[],
        source=Source(0, offset if source is None else source),
    )
    return Record(offset, ts_ms + 30, b"A", msgspec.json.encode(body))


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    made = Ledger(database_url)
    yield made
    made.close()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    made = Store(database_url)
    yield made
    made.close()


def desk_on(ledger: Ledger, ends: dict[Any, int] | None = None) -> tuple[Desk, dict[Any, int]]:
    desk = Desk(ledger, STALE)
    return desk, desk.assign(1, [0], ends or {})


def minute_of_trouble(desk: Desk, first: int = 0, start_ms: int = NOW) -> int:
    """Low pressure for 62 s from an offset on; returns the time after it."""
    records = [prediction(first + i, start_ms + i * 1_000, low=True) for i in range(62)]
    for record in records:
        desk.take((PREDICTIONS, 0), [record], desk.epoch, record.timestamp)
    return start_ms + 62_000


def test_the_history_has_each_case_of_a_minute(ledger: Ledger, store: Store) -> None:
    """A patient who comes within the minute of the one before is in it."""
    desk, _ = desk_on(ledger)
    for offset, case_id in enumerate(("c1", "c1", "c2")):
        record = prediction(offset, NOW + offset, case_id=case_id)
        desk.take((PREDICTIONS, 0), [record], desk.epoch, record.timestamp)
    desk.write(NOW, everything=True)

    assert [p.case_id for p in store.predictions("A")] == ["c1", "c2"]


def test_alert_history_and_offset_are_written_together(ledger: Ledger, store: Store) -> None:
    """One prediction a minute and the one that moved the alert; the offset is behind the last."""
    desk, starts = desk_on(ledger)
    assert starts == {(topic, 0): 0 for topic in TOPICS}
    at = minute_of_trouble(desk)
    assert desk.write(at)

    (alert,) = store.alerts("active")
    assert (alert.kind, alert.state, alert.case_id) == ("hypotension", "open", "c1")
    assert [(c.by, c.action) for c in alert.history] == [("ward", "open")]
    kept = [p.ts_ms - NOW for p in store.predictions("A")]
    assert kept == [0, 40_000, 60_000]  # minutes begin 20 s before and 40 s after NOW
    assert store.latest()["A"].ts_ms == NOW + 60_000
    positions = ledger.claim("alerts", [(PREDICTIONS, 0)])
    assert positions[PREDICTIONS, 0].next_offset == 62


def test_restart_goes_on_where_the_database_stands(ledger: Ledger, store: Store) -> None:
    """A new ward reads from the written offset; what is delivered again changes nothing."""
    desk, _ = desk_on(ledger)
    records = [prediction(i, NOW + i * 1_000, low=True) for i in range(70)]
    desk.take((PREDICTIONS, 0), records[:40], 1, NOW + 40_000)
    desk.write(NOW + 40_000, everything=True)
    desk.take((PREDICTIONS, 0), records[40:50], 1, NOW + 50_000)  # lost with the process

    desk, starts = desk_on(ledger)
    assert starts[PREDICTIONS, 0] == 39
    desk.take((PREDICTIONS, 0), records[39:], 1, NOW + 69_100)
    desk.take((PREDICTIONS, 0), records[39:], 1, NOW + 69_200)
    desk.write(NOW + 70_000, everything=True)

    (alert,) = store.alerts()
    assert alert.state == "open"
    assert len(alert.history) == 1
    assert [p.ts_ms - NOW for p in store.predictions("A")] == [0, 40_000, 60_000]


def test_repeated_prediction_changes_nothing(ledger: Ledger, store: Store) -> None:
    """A prediction published twice, under new offsets of its topic, is known by its source."""
    desk, _ = desk_on(ledger)
    at = minute_of_trouble(desk)
    desk.write(at, everything=True)
    before = (store.alerts(), store.predictions("A"))
    again = [prediction(62 + i, NOW + i * 1_000, source=i) for i in range(62)]
    desk.take((PREDICTIONS, 0), again, 1, at)
    desk.write(at + 1, everything=True)
    assert (store.alerts(), store.predictions("A")) == before


def test_late_ward_writes_nothing(ledger: Ledger, store: Store, database_url: str) -> None:
    """A ward whose partitions another has taken over is refused, alerts and trends alike."""
    late, _ = desk_on(ledger)
    at = minute_of_trouble(late)
    late.take((VITALS, 0), [observation(0, NOW, hr=80)], 1, NOW)
    other = Ledger(database_url)
    desk_on(other)
    with pytest.raises(Fenced):
        late.write(at, everything=True)
    assert store.alerts() == []
    assert store.predictions("A") == []
    assert store.trends("A", ["hr"], 0, 2 * NOW)["hr"] == []
    other.close()


def test_trends_are_a_function_of_the_set(ledger: Ledger, store: Store) -> None:
    """Repeats, order and restarts do not move a minute's mean, minimum and maximum."""
    minute = NOW - NOW % 60_000
    messages = [(minute + s * 1_000, 60.0 + s) for s in range(60)]
    records = [observation(i, ts, hr=v, map=None) for i, (ts, v) in enumerate(messages)]
    records.insert(10, observation(60, minute + 30_500, hr=5_000.0))
    desk, _ = desk_on(ledger)
    desk.take((VITALS, 0), records[30:], 1, NOW)
    desk.write(NOW + 1, everything=True)
    again = [observation(100 + i, r.timestamp - 5, hr=60.0 + i) for i, r in enumerate(records[:9])]
    desk, _ = desk_on(ledger)
    desk.take((VITALS, 0), [Record(99, 1, b"x", b"{}"), *again], 1, NOW)
    desk.write(NOW + 2, everything=True)
    desk.take((VITALS, 0), again, 1, NOW)
    rest = [Record(200 + i, r.timestamp, r.key, r.value) for i, r in enumerate(records)]
    desk.take((VITALS, 0), rest, 1, NOW)
    desk.write(NOW + 3, everything=True)
    assert store.trends("A", ["hr", "map"], minute, minute) == {
        "hr": [(minute, 60.0 + 29.5, 60.0, 119.0)],
        "map": [],
    }


def test_what_a_person_did_reaches_the_engine_and_kafka(ledger: Ledger, store: Store) -> None:
    """An acknowledgement made elsewhere is taken over, published, and not undone by the ward."""
    desk, _ = desk_on(ledger)
    at = minute_of_trouble(desk)
    desk.write(at)
    assert [a.state for a in desk.outbox()] == ["open"]
    desk.published()
    assert desk.outbox() == []

    (alert,) = store.alerts()
    store.act(alert.id, "acknowledge", "nurse", "seen", now_ms=at)

    (told,) = desk.outbox()
    assert (told.state, told.history[-1].by, told.history[-1].reason) == (
        "acknowledged",
        "nurse",
        "seen",
    )
    desk.tick(at + 3_600_000 - 62_000, {})
    desk.write(at + 1)
    assert store.alert(alert.id).state == "acknowledged"


def test_two_writers_lose_no_change(ledger: Ledger, store: Store) -> None:
    """The ward escalates while a person acknowledges: the person's word stands, once."""
    desk, _ = desk_on(ledger)
    at = minute_of_trouble(desk)
    desk.write(at)
    (alert,) = store.alerts()
    store.act(alert.id, "acknowledge", "nurse", now_ms=at)
    desk.tick(at + 16 * 60_000, {})
    assert [a.state for a in desk.engine.moved.values()] == ["escalated"]
    desk.write(at + 16 * 60_000)
    assert store.alert(alert.id).state == "acknowledged"
    assert [a.state for a in desk.engine.alerts("A")] == ["acknowledged"]
    assert [c.action for c in store.alert(alert.id).history] == ["open", "acknowledge"]


def test_unpublished_change_survives_a_crash(ledger: Ledger) -> None:
    """What was committed and not acknowledged by Kafka is in the next ward's outbox."""
    desk, _ = desk_on(ledger)
    desk.write(minute_of_trouble(desk))
    desk.outbox()
    desk, _ = desk_on(ledger)
    assert [a.kind for a in desk.outbox()] == ["hypotension"]


def test_topic_made_anew_is_read_from_its_beginning(ledger: Ledger, store: Store) -> None:
    """Offsets of a topic that is gone do not hide the messages of the new one."""
    desk, _ = desk_on(ledger)
    desk.take((VITALS, 0), [observation(i, NOW + i * 1_000, hr=80) for i in range(62)], 1, NOW)
    desk.write(minute_of_trouble(desk), everything=True)

    desk, starts = desk_on(ledger, {(VITALS, 0): 3, (PREDICTIONS, 0): 500, (CASES, 0): 0})
    assert starts[VITALS, 0] == 0
    assert starts[PREDICTIONS, 0] == 61
    later = NOW + 600_000
    assert desk.take((PREDICTIONS, 0), [prediction(61, later)], 1, later) == 0
    desk.take((PREDICTIONS, 0), [prediction(0, later)], 1, later)
    desk.write(later + 1, everything=True)
    assert store.predictions("A", limit=1)[0].ts_ms == later


def test_records_of_another_epoch_are_not_taken(ledger: Ledger) -> None:
    """What was polled before a rebalance is not mixed into what comes after it."""
    desk, _ = desk_on(ledger)
    desk.take((PREDICTIONS, 0), [prediction(0, NOW)], 0, NOW)
    assert desk.next_offset((PREDICTIONS, 0)) == 0


def test_bad_messages_cost_themselves_only(ledger: Ledger, store: Store) -> None:
    """Whatever stands in a topic, the record after it is used."""
    desk, _ = desk_on(ledger)
    for topic in TOPICS:
        junk = [
            Record(0, NOW, b"A", b"\xff{"),
            Record(1, NOW, b"", None),
            Record(2, NOW, b"A", b"{}"),
        ]
        desk.take((topic, 0), junk, 1, NOW)
    desk.take((PREDICTIONS, 0), [prediction(3, NOW)], 1, NOW)
    case = Case("A", "c1", "open", NOW)
    desk.take((CASES, 0), [Record(3, NOW, b"A", msgspec.json.encode(case))], 1, NOW)
    desk.write(NOW, everything=True)
    assert len(store.predictions("A")) == 1
    assert desk.engine.beds["A"].case_id == "c1"


def test_lost_word_of_a_commit_is_no_second_write(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction was made and the connection broke: writing it again makes the same rows."""
    desk, _ = desk_on(ledger)
    desk.take((VITALS, 0), [observation(0, NOW, hr=80)], 1, NOW)
    at = minute_of_trouble(desk)
    for name in ("write_alerts", "write_trends"):
        real = getattr(ledger, name)

        def broken(*given: Any, real: Any = real) -> None:
            real(*given)
            raise DatabaseGone("gone")

        monkeypatch.setattr(ledger, name, broken)
        with pytest.raises(DatabaseGone):
            desk.write(at, everything=True)
        monkeypatch.setattr(ledger, name, real)
    desk.write(at + 1, everything=True)
    (alert,) = store.alerts()
    assert len(alert.history) == 1
    assert [a.written for a in desk.engine.alerts("A")] == [1]
    assert store.trends("A", ["hr"], 0, 2 * NOW)["hr"] == [(NOW - NOW % 60_000, 80.0, 80.0, 80.0)]


def test_quiet_desk_writes_at_its_times(ledger: Ledger, store: Store) -> None:
    """Without an alert, history follows within a second and trends within ten."""
    desk, _ = desk_on(ledger)
    desk.write(NOW)
    desk.take((PREDICTIONS, 0), [prediction(0, NOW)], 1, NOW)
    desk.write(NOW)
    first = len(store.predictions("A"))
    desk.take((PREDICTIONS, 0), [prediction(1, NOW + 60_000)], 1, NOW)
    desk.write(NOW + desk_module.ALERTS_EVERY_MS - 1)
    assert len(store.predictions("A")) == first == 1
    desk.write(NOW + desk_module.ALERTS_EVERY_MS)
    assert len(store.predictions("A")) == 2


def test_strangers_beyond_the_limit_are_counted_and_left_out(ledger: Ledger, store: Store) -> None:
    """Neither the engine nor the trends grow by them; offsets move on."""
    heard = SimpleNamespace(refused=0, message=lambda *_: None)
    heard.skipped = lambda reason, count=1: setattr(heard, "refused", heard.refused + count)
    desk = Desk(ledger, STALE, telemetry=heard, most_beds=1)  # type: ignore[arg-type]
    desk.assign(1, [0], {})
    said = [observation(i, NOW + i * 1_000, bed, hr=80.0) for i, bed in enumerate("AXYA")]
    desk.take((VITALS, 0), said, 1, NOW)
    assert set(desk.engine.beds) == {"A"} and heard.refused == 2
    desk.write(NOW + 10, everything=True)
    assert desk.next_offset((VITALS, 0)) == 4
    assert store.trends("A", ["hr"], NOW - 60_000, NOW + 60_000, 60)["hr"]
    assert not store.trends("X", ["hr"], NOW - 60_000, NOW + 60_000, 60)["hr"]
