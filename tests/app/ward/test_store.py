"""What readers and people get from the database, on both kinds."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from app.ward import database
from app.ward.database import BadDatabase, NotMigrated
from app.ward.ledger import Ledger, Position
from app.ward.standing import Standing
from app.ward.store import StateConflict, Store, UnknownAlert
from app.ward.trends import Minute
from streaming.messages import VITALS, AlertChange

NOW = 1_800_000_000_000
MINUTE = 60_000


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    made = Store(database_url)
    yield made
    made.close()


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    made = Ledger(database_url)
    made.renew()
    for book in ("alerts", "trends"):
        made.claim(book, [(VITALS, 0)])  # type: ignore[arg-type]
    yield made
    made.close()


def standing(alert_id: str, bed_id: str = "A", kind: str = "sepsis") -> Standing:
    return Standing(
        id=alert_id,
        bed_id=bed_id,
        case_id="",
        partition=0,
        kind=kind,
        priority="high",
        state="open",
        opened_ms=NOW,
        updated_ms=NOW,
        value=0.5,
        threshold=None,
        due_ms=NOW + MINUTE,
        version=1,
        written=0,
        changes=[AlertChange(NOW, "ward", "open")],
    )


def put(ledger: Ledger, *alerts: Standing) -> None:
    ledger.write_alerts({(VITALS, 0): Position(1, NOW)}, [], [], alerts, NOW)


def test_actions_follow_the_states(store: Store, ledger: Ledger) -> None:
    """Each action leads to its state, or is refused where the state does not allow it."""
    put(ledger, standing("x"))
    snoozed = store.act("x", "snooze", "nurse", "in theatre", 30, now_ms=NOW + 1)
    assert (snoozed.state, snoozed.updated_ms) == ("snoozed", NOW + 1)
    with pytest.raises(StateConflict, match="cannot snooze an alert that is snoozed"):
        store.act("x", "snooze", "nurse", now_ms=NOW + 2)
    assert store.act("x", "escalate", "nurse", now_ms=NOW + 2).state == "escalated"
    done = store.act("x", "acknowledge", "doctor", now_ms=NOW + 3)
    assert [(c.ms - NOW, c.by, c.action, c.reason) for c in done.history] == [
        (0, "ward", "open", None),
        (1, "nurse", "snooze", "in theatre"),
        (2, "nurse", "escalate", None),
        (3, "doctor", "acknowledge", None),
    ]
    with pytest.raises(StateConflict):
        store.act("x", "acknowledge", "doctor", now_ms=NOW + 4)
    with pytest.raises(UnknownAlert):
        store.act("y", "acknowledge", "doctor", now_ms=NOW + 4)
    with pytest.raises(UnknownAlert):
        store.alert("y")


@pytest.mark.parametrize("minutes", [0, -1, 61, 10**9])
def test_snooze_has_a_limit(store: Store, ledger: Ledger, minutes: int) -> None:
    """A snooze is 1 to 60 minutes; another length changes nothing."""
    put(ledger, standing("x"))
    with pytest.raises(ValueError, match="minutes must be 1 to 60"):
        store.act("x", "snooze", "nurse", minutes=minutes, now_ms=NOW)
    with pytest.raises(ValueError, match="minutes are for a snooze"):
        store.act("x", "acknowledge", "nurse", minutes=5, now_ms=NOW)
    assert store.alert("x").state == "open"


def test_of_many_at_once_exactly_one_acknowledges(store: Store, ledger: Ledger) -> None:
    """People who acknowledge together: one does it, the others learn of it."""
    put(ledger, standing("x"))
    results: list[str] = []

    def press(who: str) -> None:
        try:
            results.append(store.act("x", "acknowledge", who, now_ms=NOW).state)
        except StateConflict as error:
            results.append(str(error))

    threads = [threading.Thread(target=press, args=(str(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("acknowledged") == 1
    assert results.count("cannot acknowledge an alert that is acknowledged") == 5
    assert len(store.alert("x").history) == 2


def test_alerts_are_found_by_state_and_bed(store: Store, ledger: Ledger) -> None:
    """The filters of the API, newest first, without the case that is not known."""
    put(ledger, standing("x"), standing("y", "B"), standing("z", "B", "news2"))
    store.act("y", "acknowledge", "nurse", now_ms=NOW)
    assert {a.id for a in store.alerts()} == {"x", "y", "z"}
    assert {a.id for a in store.alerts("open")} == {"x", "z"}
    assert {a.id for a in store.alerts("active", "B")} == {"y", "z"}
    assert store.alerts("closed") == []
    assert store.alert("x").case_id is None


def test_trends_fall_into_steps(store: Store, ledger: Ledger) -> None:
    """Means weigh the seconds of each minute; a step holds the minutes that begin in it."""
    at = NOW - NOW % (5 * MINUTE)
    rows = [
        (("A", "hr", at + i * MINUTE), Minute(n, n * mean, mean - 1, mean + 1, mean, at, 1))
        for i, (n, mean) in enumerate(
            [(60, 80.0), (30, 110.0), (1, 50.0), (1, 1.0), (1, 1.0), (1, 9.0)]
        )
    ]
    ledger.write_trends({(VITALS, 0): Position(1, NOW)}, rows[:3] + rows[5:])
    answer = store.trends("A", ["hr", "map"], at, at + 10 * MINUTE, 300)
    mean = (60 * 80.0 + 30 * 110.0 + 50.0) / 91
    assert answer["map"] == []
    assert answer["hr"][0] == (at, pytest.approx(mean), 49.0, 111.0)
    assert answer["hr"][1:] == [(at + 5 * MINUTE, 9.0, 8.0, 10.0)]
    assert len(store.trends("A", ["hr"], at, at + 2 * MINUTE, 60)["hr"]) == 3
    assert len(store.trends("A", ["hr"], at + 1, at + MINUTE, 1)["hr"]) == 2


def test_unmigrated_database_is_refused_with_what_to_do(empty_url: str) -> None:
    """A role on a database without tables stops with a message that names the command."""
    store = Store(empty_url)
    with pytest.raises(NotMigrated, match="run `vitalstream migrate`"):
        store.ping()
    assert database.migrate(empty_url) == database.migrate(empty_url) == "0001"
    store.ping()
    store.close()


def test_migration_makes_the_tables_of_the_code(database_url: str) -> None:
    """What the migrations make is what the code speaks of."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from app.ward.tables import METADATA

    engine = database.open_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://root:secret@h/x", "nonsense", "oracle://", ""])
def test_other_databases_are_refused_without_the_password(url: str) -> None:
    """A URL that cannot be used says which can, and shows no secret."""
    with pytest.raises(BadDatabase, match="postgresql") as caught:
        database.open_engine(url)
    assert "secret" not in str(caught.value)


def test_gone_database_is_named_so() -> None:
    """A server that is not there is gone, not an error of the question."""
    store = Store("postgresql://postgres@127.0.0.1:1/x")
    with pytest.raises(database.DatabaseGone):
        store.ping()
    with pytest.raises(database.DatabaseGone):
        database.migrate("postgresql://postgres@127.0.0.1:1/x")
    store.close()


def test_no_input_of_a_reader_is_an_error_of_the_database(store: Store, ledger: Ledger) -> None:
    """Times beyond every integer find nothing; a text that no database keeps is refused."""
    put(ledger, standing("x"))
    far = 10**30
    assert store.predictions("A", -far, far, 10) == []
    assert store.predictions("A", far, -far, 10**9) == []
    assert store.trends("A", ["hr"], -far, far, 10**20) == {"hr": []}
    assert store.trends("A", [], 0, far, 1) == {}
    with pytest.raises(ValueError, match="NUL"):
        store.act("x", "acknowledge", "nurse", "a\0b", now_ms=NOW)
    assert store.act("x", "acknowledge", "Ärztin 👶", "’; --", now_ms=NOW).history[-1].reason
