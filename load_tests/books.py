"""What a ward's database must hold, worked out from the topics by ten lines of dictionaries.

- trends: each minute's seconds, sum, bounds and last value are those of the observations;
- history: a row for each minute in which a bed was predicted, each one of the predictions;
- alerts: their changes are counted without a gap, each opens once, no two of a bed, case and kind
  overlap, and Kafka has the last state of each.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, create_engine, text
from verdict import read_topic

MINUTE_MS = 60_000


def judge(servers: str, url: str, quiet: int, timeout_s: float) -> list[str]:
    """Wait until nothing is missing, or the time is over; the faults then.

    Args:
        servers: Kafka; its topics are as the ward has read them.
        url: PostgreSQL.
        quiet: Beds that fell silent, once, when all was published; each has one alert of that.
        timeout_s: How long the ward may take.
    """
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    end = time.monotonic() + timeout_s
    try:
        while True:
            with engine.connect() as connection:
                faults = [
                    *_trends(servers, connection),
                    *_history(servers, connection),
                    *_alerts(servers, connection, quiet),
                ]
            if not faults or time.monotonic() > end:
                return faults
            time.sleep(1)
    finally:
        engine.dispose()


def _trends(servers: str, connection: Connection) -> list[str]:
    first: dict[Any, dict[int, float]] = defaultdict(dict)
    every: dict[Any, list[float]] = defaultdict(list)
    last: dict[Any, tuple[int, float]] = {}
    for record in read_topic(servers, "icu.vitals"):
        message = json.loads(record.value())
        ts_ms = message["ts_ms"]
        for name, value in message["values"].items():
            if value is None:
                continue
            row = (message["bed_id"], name, ts_ms - ts_ms % MINUTE_MS)
            first[row].setdefault(ts_ms // 1_000, value)
            every[row].append(value)
            if row not in last or ts_ms >= last[row][0]:
                last[row] = (ts_ms, value)
    query = "select bed_id, signal, minute_ms, n, total, low, high, last_ms, last from trends"
    found = {tuple(row[:3]): row[3:] for row in connection.execute(text(query))}
    wanted = {
        row: (len(seconds), sum(seconds.values()), min(every[row]), max(every[row]), *last[row])
        for row, seconds in first.items()
    }
    return [
        f"trend {row}: {found.get(row)} for {wanted.get(row)}"
        for row in wanted.keys() | found.keys()
        if row not in found or row not in wanted or not _close(found[row], wanted[row])
    ]


def _close(row: Any, wanted: Any) -> bool:
    return all(abs(a - b) <= 1e-6 * max(1.0, abs(b)) for a, b in zip(row, wanted, strict=True))


def _history(servers: str, connection: Connection) -> list[str]:
    said: dict[Any, Any] = {}
    for record in read_topic(servers, "icu.predictions"):
        prediction = json.loads(record.value())
        said[prediction["bed_id"], prediction["source"]["offset"]] = prediction
    minutes = {(bed, p["ts_ms"] // MINUTE_MS) for (bed, _), p in said.items()}
    faults = []
    kept = set()
    for bed_id, ts_ms, body in connection.execute(
        text("select bed_id, ts_ms, body from predictions")
    ):
        row = json.loads(zlib.decompress(body))
        kept.add((bed_id, ts_ms // MINUTE_MS))
        same = said.get((bed_id, row["source"]["offset"]))
        if same is None or {**same, "produced_ms": 0} != {**row, "produced_ms": 0}:
            faults.append(f"history {bed_id} {ts_ms}: not what was predicted")
    faults += [f"history {row}: no row" for row in minutes - kept]
    faults += [f"history {row}: nothing predicted" for row in kept - minutes]
    return faults


def _alerts(servers: str, connection: Connection, quiet: int) -> list[str]:
    changes: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for alert_id, version, action in connection.execute(
        text("select alert_id, version, action from alert_changes order by alert_id, version")
    ):
        changes[alert_id].append((version, action))
    published = {}
    for record in read_topic(servers, "icu.alerts"):
        alert = json.loads(record.value())
        published[alert["id"]] = alert["state"]
    faults, silences = [], 0
    ended: dict[Any, tuple[str, int]] = {}
    for (
        alert_id,
        bed_id,
        case_id,
        kind,
        state,
        version,
        opened_ms,
        updated_ms,
    ) in connection.execute(
        text(
            "select id, bed_id, case_id, kind, state, version, opened_ms, updated_ms from alerts"
            " order by opened_ms"
        )
    ):
        name = f"alert {bed_id} {kind} {opened_ms}"
        actions = [action for _, action in changes[alert_id]]
        if [number for number, _ in changes[alert_id]] != list(range(1, version + 1)):
            faults.append(f"{name}: changes {changes[alert_id]} of {version}")
        if actions[:1] != ["open"] or actions.count("open") != 1:
            faults.append(f"{name}: {actions}")
        before = ended.get((bed_id, case_id, kind), ("closed", 0))
        if before[0] != "closed" or before[1] > opened_ms:
            faults.append(f"{name}: opened while another one stood")
        ended[bed_id, case_id, kind] = (state, updated_ms)
        if published.get(alert_id) != state:
            faults.append(f"{name}: {state}, and published {published.get(alert_id)}")
        silences += kind == "silence"
    if silences != quiet:
        faults.append(f"{silences} alerts of silence for {quiet} beds that fell silent")
    return faults
