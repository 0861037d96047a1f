"""The API on a real Kafka: two of them, a worker with the shipped model, and a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.lifecycle import Deadline
from app.metrics import Metrics
from app.roles.api import Api
from app.roles.worker import Worker
from app.settings import load
from streaming.codec import decode_case, encode
from streaming.messages import CASES, VITALS, Case, Observation
from streaming.producer import Producer
from streaming.reader import Reader

pytestmark = pytest.mark.integration
PATIENCE_S = 60
TOKEN = "a-token-for-this-test-only"
HEADER = {"authorization": f"Bearer {TOKEN}"}


@dataclass
class Ward:
    """Two APIs over one Kafka, and a producer."""

    apis: list[httpx.AsyncClient]
    producer: Producer
    servers: str

    async def publish(self, *observations: Observation) -> None:
        """Publish and wait for the acknowledgements."""
        for each in observations:
            await (await self.producer.send(VITALS, each.bed_id.encode(), encode(each)))

    async def bed(self, bed: str, true: Callable[[Any], Any], api: int = 0) -> Any:
        """The bed, once something is true of it."""
        end_s = time.monotonic() + PATIENCE_S
        found: Any = None
        while time.monotonic() < end_s:
            answer = await self.apis[api].get(f"/v1/beds/{bed}")
            found = answer.json()
            if answer.status_code == 200 and true(found):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true of {bed}: {found}")


@pytest.fixture
async def ward(stream: Any, tmp_path: Path) -> AsyncIterator[Ward]:
    """A worker and two APIs, each with metrics of its own."""
    settings = load(
        kafka=stream.servers, group=stream.group, port=0, token=TOKEN, data_dir=tmp_path
    )
    apis = [Api(settings, Metrics()) for _ in range(2)]
    roles = [Worker(settings), *apis]
    try:
        async with contextlib.AsyncExitStack() as stack:
            for role in roles:
                await role.start()
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(base_url=api.url, headers=HEADER, timeout=10)
                )
                for api in apis
            ]
            producer = await stack.enter_async_context(Producer(stream.servers))
            yield Ward(clients, producer, stream.servers)
    finally:
        for role in reversed(roles):
            await role.drain(Deadline(9))


class Events:
    """A reader of the live stream."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self, kind: str, bed: str) -> tuple[str, Any]:
        """The id and the data of the next event of this kind and bed."""
        event: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if line:
                    event[name] = value
                    continue
                if event.get("event") == kind:
                    data = json.loads(event["data"])
                    if data["bed_id"] == bed:
                        return event["id"], data
                event = {}
        raise AssertionError("the stream ended")


@contextlib.asynccontextmanager
async def live(api: httpx.AsyncClient, last: str = "", **query: str) -> AsyncIterator[Events]:
    """Read the live stream, from the event `last` on where one is named."""
    headers = {"last-event-id": last} if last else {}
    async with api.stream("GET", "/v1/stream", params=query, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer.aiter_lines())


def observations(bed: str, count: int, start_ms: int) -> list[Observation]:
    """A bed that gets worse, minute by minute."""
    return [
        Observation(
            bed, start_ms + k * 60_000, {"hr": 80.0 + k, "map": 80.0 - k, "spo2": 97.0}, "c1"
        )
        for k in range(count)
    ]


async def test_cases_predictions_and_the_stream_agree_at_two_apis(ward: Ward) -> None:
    """A case put at one API is known at both; what the worker says is what an ad-hoc request says;
    a reader that comes back misses nothing; a case deleted at the other API empties both.
    """
    now_ms = time.time_ns() // 1_000_000
    case = {"case_id": "c1", "admitted_ms": now_ms - 7_200_000, "age_years": 71.0, "sex": "female"}
    first, second = ward.apis

    async with live(first, beds="B/1") as events:
        put = await first.put("/v1/beds/B%2F1/case", json=case)
        assert put.status_code == 202
        await events.next("bed", "B/1")
        for api in (0, 1):
            await ward.bed("B%2F1", lambda bed: (bed["case"] or {}).get("case_id") == "c1", api)
        said = observations("B/1", 20, now_ms - 19 * 60_000)
        await ward.publish(*said[:10])
        seen, _ = await events.next("prediction", "B/1")

    # Away; meanwhile more arrives.
    await ward.publish(*said[10:])
    newest = [
        await ward.bed(
            "B%2F1",
            lambda bed: bed["prediction"] and bed["prediction"]["ts_ms"] == said[-1].ts_ms,
            api,
        )
        for api in (0, 1)
    ]
    async with live(first, seen) as events:
        resumed, prediction = await events.next("prediction", "B/1")
    assert int(resumed.rpartition("-")[2]) > int(seen.rpartition("-")[2])
    assert prediction["ts_ms"] == said[-1].ts_ms

    shown = [bed["prediction"] for bed in newest]
    assert shown[0] == shown[1] == prediction
    assert not newest[0]["stale"]
    wards = [(await api.get("/v1/beds")).json()["beds"] for api in ward.apis]
    assert [[bed["bed_id"] for bed in beds] for beds in wards] == [["B/1"], ["B/1"]]

    adhoc = await asked(second, case, said)
    own = {"bed_id", "produced_ms", "source"}
    assert {k: v for k, v in adhoc.items() if k not in own} == {
        k: v for k, v in prediction.items() if k not in own
    }

    assert (await second.delete("/v1/beds/B%2F1/case")).status_code == 202
    for api in (0, 1):
        await ward.bed("B%2F1", lambda bed: bed["prediction"] is None, api)
    values = await cases(ward.servers)
    assert [key for key, _ in values] == [b"B/1", b"B/1"]
    known = values[0][1]
    assert known is not None and (known.case_id, known.status, known.sex) == (
        "c1", "open", "female"
    )  # fmt: skip
    assert values[1][1] is None


async def asked(api: httpx.AsyncClient, case: Any, said: list[Observation]) -> Any:
    """The ad-hoc prediction, as soon as the API has loaded its model."""
    body = {"case": case, "observations": [{"ts_ms": o.ts_ms, "values": o.values} for o in said]}
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        answer = await api.post("/v1/predictions", json=body)
        if answer.status_code != 503:
            assert answer.status_code == 200, answer.text
            return answer.json()
        await asyncio.sleep(0.1)
    raise AssertionError("the API never had its model")


async def cases(servers: str) -> list[tuple[bytes | None, Case | None]]:
    """What lies on `icu.cases`, in order."""
    async with Reader(servers) as reader:
        return [
            (record.key, None if record.value is None else decode_case(record.value, record.key))
            async for records in reader.read(CASES, await reader.partitions(CASES))
            for record in records
        ]


@pytest.mark.parametrize(
    ("query", "status"),
    [({"beds": ","}, 422), ({"every_ms": "-1"}, 422), ({"beds": "x" * 20_001}, 422)],
)
async def test_a_stream_of_nothing_is_a_problem(
    stream: Any, tmp_path: Path, query: dict[str, str], status: int
) -> None:
    """Told before the stream begins; an id that is none starts from all there is."""
    settings = load(kafka=stream.servers, port=0, token=TOKEN, data_dir=tmp_path)
    api = Api(settings, Metrics())
    try:
        await api.start()
        async with httpx.AsyncClient(base_url=api.url, headers=HEADER) as client:
            answer = await client.get("/v1/stream", params=query)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
    finally:
        await api.drain(Deadline(9))
