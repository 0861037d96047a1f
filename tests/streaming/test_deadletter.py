"""Bad messages on a real Kafka: each reaches the dead letters whole, with its reason, and is
counted.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from typing import Any

import pytest
from confluent_kafka import Producer as OtherProducer

from streaming import refusals
from streaming.codec import VitalsDecoder
from streaming.deadletter import PREFIX, DeadLetters
from streaming.messages import DEAD_LETTERS, MAX_MESSAGE_BYTES, VITALS
from streaming.producer import Admin, Producer, TopicPlan
from streaming.reader import Reader, Record
from streaming.telemetry import Telemetry
from streaming.topics import LARGEST_BYTES, LARGEST_LETTER_BYTES

pytestmark = pytest.mark.integration

NOW_MS = time.time_ns() // 1_000_000


def text(**changes: Any) -> bytes:
    fields = {"bed_id": "A-07", "ts_ms": NOW_MS, "values": {"hr": 82}} | changes
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


BAD: dict[str, tuple[bytes | None, bytes | None]] = {
    refusals.NOT_UTF8: (b"A-07", b"\xff\xfe{}"),
    refusals.NOT_JSON: (b"A-07", b"{hello"),
    refusals.NOT_FINITE: (b"A-07", text(values={"hr": math.nan})),
    refusals.MISSING_FIELD: (b"A-07", text(ts_ms=...)),
    refusals.WRONG_TYPE: (b"A-07", text(values={"hr": "82"})),
    refusals.BAD_BED_ID: (b"x" * 129, text(bed_id="x" * 129)),
    refusals.BAD_CASE_ID: (b"A-07", text(case_id="")),
    refusals.KEY_MISMATCH: (None, text()),
    refusals.BAD_TIME: (b"A-07", text(ts_ms=-1)),
    # By hours: the suite may have been running for minutes since this was imported.
    refusals.AHEAD: (b"A-07", text(ts_ms=NOW_MS + 10 * 3_600_000)),
    refusals.TOO_LARGE: (b"A-07", text(device_id="x" * (LARGEST_BYTES - 65_536))),
    refusals.TOMBSTONE: (b"A-07", None),
}


class Heard(Telemetry):
    def __init__(self) -> None:
        self.letters: Counter[str] = Counter()

    def dead_letter(self, reason: str, count: int = 1) -> None:
        self.letters[reason] += count


def publish(servers: str, messages: list[tuple[bytes | None, bytes | None]]) -> None:
    """Write as a stranger would: another client, bytes as they are."""
    other = OtherProducer(
        {
            "bootstrap.servers": servers,
            "message.max.bytes": 2 * LARGEST_BYTES,
            "log_level": 0,
        }
    )
    failed: list[Any] = []
    for key, value in messages:
        other.produce(
            VITALS,
            value,
            key,
            headers={"trace": b"\x00\x01"},
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    assert other.flush(20) == 0
    assert failed == []


async def read_all(servers: str, topic: str) -> list[Record]:
    async with Reader(servers) as reader:
        chosen = await reader.partitions(topic)
        return [r async for some in reader.read(topic, chosen) for r in some]


async def bury_all(servers: str) -> Counter[str]:
    """What a worker does with what it cannot use."""
    heard = Heard()
    _, bad = VitalsDecoder().decode(await read_all(servers, VITALS))
    async with Producer(servers, max_request_bytes=LARGEST_LETTER_BYTES) as producer:
        await DeadLetters(producer, "test-worker", heard).bury(bad)
    return heard.letters


def test_every_reason_has_its_message_here() -> None:
    """A new reason needs a new line above."""
    assert set(BAD) | {refusals.TOO_MANY_BEDS} == set(refusals.REASONS)


async def test_every_bad_message_arrives_whole_with_its_reason(stream: Any) -> None:
    """Key, value and own headers are as they came; Connect's headers say from where and why; each
    is counted.
    """
    await asyncio.to_thread(publish, stream.servers, [*BAD.values(), (b"A-07", text())])
    assert await bury_all(stream.servers) == Counter(dict.fromkeys(BAD, 1))
    sources = {(r.partition, r.offset): r for r in await read_all(stream.servers, VITALS)}
    letters = await read_all(stream.servers, DEAD_LETTERS)
    assert len(letters) == len(BAD)
    for letter in letters:
        headers = dict(letter.headers)
        said = {name.removeprefix(PREFIX): value.decode() for name, value in headers.items()}
        reason = said["exception.class.name"].removeprefix("vitalstream.")
        source = sources[int(said["partition"]), int(said["offset"])]
        assert (letter.key, letter.value) == (source.key, source.value) == BAD[reason]
        assert said["topic"] == VITALS
        assert said["timestamp"] == str(source.timestamp)
        assert said["exception.message"].startswith(reason)
        assert said["connector.name"] == "test-worker"
        assert headers["trace"] == b"\x00\x01"


async def test_a_letter_without_key_and_value_is_still_a_letter(stream: Any) -> None:
    """Nothing but headers came, and they say so."""
    await asyncio.to_thread(publish, stream.servers, [(None, None)])
    assert await bury_all(stream.servers) == {refusals.TOMBSTONE: 1}
    (letter,) = await read_all(stream.servers, DEAD_LETTERS)
    assert (letter.key, letter.value) == (None, b"")


async def test_a_topic_that_takes_no_large_letters_keeps_their_headers(stream: Any) -> None:
    """A dead-letter topic made by hand with Kafka's default limit does not stop the stream."""
    async with Admin(stream.servers) as admin:
        await admin.delete([DEAD_LETTERS])
        while DEAD_LETTERS in await admin.partitions():
            pass
        await admin.create([TopicPlan(DEAD_LETTERS, stream.partitions, 1)])
    large = text(device_id="x" * (2 * MAX_MESSAGE_BYTES))
    await asyncio.to_thread(publish, stream.servers, [(b"A-07", large)])
    assert await bury_all(stream.servers) == {refusals.TOO_LARGE: 1}
    (letter,) = await read_all(stream.servers, DEAD_LETTERS)
    assert (letter.key, letter.value) == (b"A-07", b"")
    assert dict(letter.headers)[PREFIX + "exception.message"] == b"too_large"


async def test_the_restart_of_the_broker_loses_no_letter(stream: Any) -> None:
    """Letters in flight while the broker is gone are written when it is back."""
    await asyncio.to_thread(publish, stream.servers, [(b"A-07", b"x")] * 20)
    _, bad = VitalsDecoder().decode(await read_all(stream.servers, VITALS))
    heard = Heard()
    async with Producer(stream.servers) as producer:
        letters = DeadLetters(producer, "test-worker", heard)
        await asyncio.to_thread(stream.server.kill)
        burying = asyncio.create_task(letters.bury(bad))
        await asyncio.to_thread(stream.server.start)
        await burying
    assert heard.letters == {refusals.NOT_JSON: 20}
    assert len(await read_all(stream.servers, DEAD_LETTERS)) == 20
