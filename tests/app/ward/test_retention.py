"""Retention: what is old goes in batches, what is in use stays."""

from __future__ import annotations

from typing import Any

from app.ward.beds import Bed
from app.ward.history import Kept
from app.ward.ledger import Ledger, Position
from app.ward.retention import purge
from app.ward.store import Store
from app.ward.trends import Minute
from streaming.messages import VITALS, AlertChange

NOW = 1_800_000_000_000


def test_old_rows_go_in_batches_and_open_alerts_stay(database_url: str) -> None:
    """Old trends, predictions, beds and closed alerts go, never more than a batch at once."""
    import zlib

    from app.ward.standing import Standing

    def alert(name: str, state: Any, kind: str) -> Standing:
        return Standing(
            id=name,
            bed_id="A",
            case_id="",
            partition=0,
            kind=kind,
            priority="low",
            state=state,
            opened_ms=1,
            updated_ms=1,
            value=None,
            threshold=None,
            due_ms=None,
            version=1,
            written=0,
            changes=[AlertChange(1, "ward", "open")],
        )

    ledger = Ledger(database_url)
    ledger.renew()
    ledger.claim("alerts", [(VITALS, 0)])
    ledger.claim("trends", [(VITALS, 0)])
    at = {(VITALS, 0): Position(1, 1)}
    body = zlib.compress(b"{}")
    kept = [Kept("A", ts, "", "1", 0, ts, body) for ts in (1, 2, 3, NOW)]
    alerts = [alert("old", "closed", "x"), alert("standing", "open", "y")]
    ledger.write_alerts(at, kept, [Bed("B", 0)], alerts, 5)
    ledger.write_alerts(at, [], [Bed("A", 0)], [], 5)  # old, but an alert of it stands
    rows = [(("A", "hr", ts), Minute(1, 1.0, 1, 1, 1, ts, 1)) for ts in (0, 60_000, NOW)]
    ledger.write_trends(at, rows)

    counts = []
    while gone := purge(ledger.engine, NOW, batch=2):
        counts.append(gone)

    assert counts == [2 + 2 + 1 + 1, 1]
    store = Store(database_url)
    assert [a.id for a in store.alerts()] == ["standing"]
    assert [bed.bed_id for bed in ledger.beds([0])] == ["A"]
    assert list(ledger.stored([key for key, _ in rows])) == [("A", "hr", NOW)]
    store.close()
    ledger.close()
