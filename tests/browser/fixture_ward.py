"""A ward made up for looking at the page: any number of beds at 1 Hz, without a model behind them.

Serves the built page and just enough of the API:
`python tests/browser/fixture_ward.py --beds 1000 --port 8123`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles

DIST = Path(__file__).parents[2] / "app" / "web" / "dist"
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
THRESHOLDS = {"sepsis": 0.04, "mortality": 0.4, "hypotension": 0.3, "hypoxaemia": 0.25}
LABS = {"lactate": 2.1, "creatinine": 1.2, "wbc": 11.4, "platelets": 210, "potassium": 4.1}


def now_ms() -> int:
    """Wall clock, ms."""
    return time.time_ns() // 1_000_000


def prediction(i: int, ts_ms: int) -> dict[str, Any]:
    """A plausible prediction of bed i; about one in twelve is ill."""
    ill = i % 12 == 5
    swing = math.sin(ts_ms / 40_000 + i)
    draw = random.Random(i * 7919 + ts_ms // 1000)
    base = random.Random(i)
    ratios = {
        name: min(0.95, limit * (1.6 if ill else base.uniform(0.05, 0.8)) * (1 + 0.2 * swing))
        for name, limit in THRESHOLDS.items()
    }
    vitals = {
        "hr": 118 + 6 * swing if ill else base.uniform(62, 95) + 3 * swing,
        "spo2": 91 + swing if ill else min(100, base.uniform(95, 99) + swing),
        "map": 61 + 4 * swing if ill else base.uniform(72, 95) + 3 * swing,
        "sbp": 92 + 5 * swing if ill else base.uniform(110, 140) + 4 * swing,
        "dbp": 48 + 3 * swing if ill else base.uniform(60, 80) + 2 * swing,
        "resp": 27 + 2 * swing if ill else base.uniform(12, 19) + swing,
        "temp": 38.6 if ill else base.uniform(36.4, 37.4),
    }
    inputs = {
        n: {"v": round(v + draw.uniform(-1, 1) * 0.3, 2), "age_ms": 0} for n, v in vitals.items()
    }
    inputs["temp"]["age_ms"] = 14 * 60_000
    for k, (name, value) in enumerate(LABS.items()):
        age_ms = (2 + 7 * k) * 3_600_000
        inputs[name] = {"v": round(value * base.uniform(0.7, 1.6), 2), "age_ms": age_ms}
    return {
        "bed_id": f"A-{i + 1:02d}",
        "case_id": f"case-{i}",
        "ts_ms": ts_ms,
        "produced_ms": ts_ms + 9,
        "model": "fixture",
        "model_version": "0",
        "status": "ok",
        "risks": {
            n: {"p": p, "low": p * 0.6, "high": min(1, p * 1.5), "positive": p > THRESHOLDS[n]}
            for n, p in ratios.items()
        },
        "experts": {"general": 0.55, "cardiology": 0.27, "oncology": 0.12, "rare_disease": 0.06},
        "novelty": 0.2,
        "scores": {
            "news2": {"value": 9 if ill else base.randint(0, 4), "missing": ["acvpu"]},
            "qsofa": {"value": 2 if ill else 0, "missing": []},
        },
        "inputs": inputs,
        "drivers": [
            {"signal": "map", "effect": 0.8 if ill else -0.2},
            {"signal": "lactate", "effect": 0.4},
            {"signal": "spo2", "effect": -0.3},
        ],
        "source": {"partition": 0, "offset": ts_ms},
    }


def create(beds: int) -> FastAPI:
    """The fixture's application."""
    app = FastAPI()
    start = now_ms()
    silent = {i for i in range(beds) if i % 31 == 7}
    alerts: dict[str, dict[str, Any]] = {}
    for i in range(beds):
        kind, priority = ("news2", "high") if i % 24 == 5 else ("hypotension", "medium")
        if i % 12 != 5 and i not in silent:
            continue
        if i in silent:
            kind, priority = "silence", "low"
        alerts[str(i)] = {
            "id": str(i),
            "bed_id": f"A-{i + 1:02d}",
            "case_id": f"case-{i}",
            "kind": kind,
            "priority": priority,
            "state": "open",
            "opened_ms": start - 200_000,
            "updated_ms": start - 200_000,
            "value": 9.0 if kind == "news2" else 0.45,
            "threshold": 7.0 if kind == "news2" else 0.3,
            "history": [{"ms": start - 200_000, "by": "ward", "action": "open", "reason": None}],
        }

    def ts_of(i: int) -> int:
        return start - 130_000 if i in silent else now_ms()

    def bed(i: int) -> dict[str, Any]:
        said = prediction(i, ts_of(i))
        return {
            "bed_id": said["bed_id"],
            "case_id": said["case_id"],
            "stale": i in silent,
            "age_ms": now_ms() - said["ts_ms"],
            "prediction": said,
            "open_alerts": int(str(i) in alerts),
        }

    @app.middleware("http")
    async def policy(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @app.get("/v1/beds")
    def all_beds() -> dict[str, Any]:
        return {"beds": [bed(i) for i in range(beds)]}

    @app.get("/v1/beds/{bed_id}")
    def one(bed_id: str) -> dict[str, Any]:
        i = int(bed_id[2:]) - 1
        case = {
            "bed_id": bed_id,
            "case_id": f"case-{i}",
            "status": "open",
            "admitted_ms": start - 9e7,
            "age_years": 71,
            "sex": "female",
            "unit_type": "medical",
            "problems": ["ICD10:C34.1"],
        }
        mine = [alert for alert in alerts.values() if alert["bed_id"] == bed_id]
        return {**bed(i), "case": case, "alerts": mine}

    @app.get("/v1/beds/{bed_id}/predictions")
    def history(bed_id: str, from_ms: int) -> dict[str, Any]:
        i = int(bed_id[2:]) - 1
        return {"predictions": [prediction(i, t) for t in range(from_ms, now_ms(), 60_000)]}

    @app.get("/v1/beds/{bed_id}/trends")
    def trends(bed_id: str, signals: str, from_ms: int, step_s: int) -> dict[str, Any]:
        rows: dict[str, list[list[float]]] = {}
        for name in signals.split(","):
            draw, value, rows[name] = (
                random.Random(name),
                {"temp": 37, "resp": 20}.get(name, 85),
                [],
            )
            for ts in range(from_ms, now_ms(), step_s * 1000):
                value += draw.gauss(0, 0.02 if name == "temp" else 0.8)
                width = 0.1 if name == "temp" else 3
                rows[name].append([ts, value, value - width, value + width])
        return {"step_s": step_s, "signals": {n: r for n, r in rows.items() if n != "etco2"}}

    @app.get("/v1/alerts")
    def all_alerts(state: str) -> dict[str, Any]:
        return {"alerts": [alert for alert in alerts.values() if alert["state"] == state]}

    @app.post("/v1/alerts/{alert_id}/{action}")
    def act(alert_id: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
        alert = alerts[alert_id]
        state = {"acknowledge": "acknowledged", "snooze": "snoozed", "escalate": "escalated"}
        entry = {"ms": now_ms(), "by": "page", "action": action, "reason": body.get("reason")}
        alert.update(state=state[action], updated_ms=now_ms())
        alert["history"].append(entry)
        return alert

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
        return {"name": "fixture", "thresholds": THRESHOLDS, "intended_use": "Looking at the page."}

    @app.get("/v1/stream")
    def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            due = asyncio.get_running_loop().time()
            while True:
                for i in range(beds):
                    if i in silent:
                        continue
                    data = json.dumps(prediction(i, now_ms()))
                    yield f"id: {i}\nevent: prediction\ndata: {data}\n\n".encode()
                due += 1.0
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

        return StreamingResponse(events(), media_type="text/event-stream")

    app.mount("/", StaticFiles(directory=DIST, html=True))
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beds", type=int, default=24)
    parser.add_argument("--port", type=int, default=8123)
    given = parser.parse_args()
    uvicorn.run(create(given.beds), host="127.0.0.1", port=given.port, log_level="warning")
