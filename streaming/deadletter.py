"""What could not be used goes to `icu.vitals.dlq` as it came, with Kafka Connect's headers saying
where from and why.

Headers:
https://github.com/apache/kafka/blob/trunk/connect/runtime/src/main/java/org/apache/kafka/connect/runtime/errors/DeadLetterQueueReporter.java
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from streaming.messages import DEAD_LETTERS
from streaming.producer import Producer, Sent, TooLarge
from streaming.refusals import BAD_BED_ID, KEY_MISMATCH, Rejected
from streaming.telemetry import SILENT, Telemetry

log = structlog.get_logger(__name__)

PREFIX: Final = "__connect.errors."
HEADERS: Final = {
    "topic": "Topic the message came from.",
    "partition": "Its partition.",
    "offset": "Its offset.",
    "timestamp": "Its timestamp in Kafka, milliseconds.",
    "connector.name": "The consumer group that refused it.",
    "stage": "KEY_CONVERTER or VALUE_CONVERTER: which of the two is to blame.",
    "class.name": "Who refused it.",
    "exception.class.name": "The reason, as vitalstream.REASON.",
    "exception.message": "The reason and the field concerned; never what the message said.",
}
"""Headers of a dead letter, each after `PREFIX`, as text in UTF-8; the message's own headers come
before them.
"""


class DeadLetters:
    """Writes dead letters; the producer needs room for `topics.LARGEST_LETTER_BYTES` (its
    `max_request_bytes`).
    """

    def __init__(self, producer: Producer, group: str, telemetry: Telemetry = SILENT) -> None:
        self._producer = producer
        self._group = group
        self._telemetry = telemetry

    async def bury(self, rejected: Sequence[Rejected]) -> None:
        """Write the records' original bytes and wait for the acknowledgements, so that their
        offsets are done.

        Raises:
            KafkaError: A letter was not acknowledged; it may be written again.
        """
        sent = [await self._send(letter, letter.record.value) for letter in rejected]
        for letter, future in zip(rejected, sent, strict=True):
            try:
                await future
            except TooLarge:
                await (await self._send(letter, b""))
                log.error(
                    "dead letter kept without its value: the topic takes no more",
                    partition=letter.record.partition,
                    offset=letter.record.offset,
                )
            self._telemetry.dead_letter(letter.reason)

    async def _send(self, letter: Rejected, value: bytes | None) -> asyncio.Future[Sent]:
        record = letter.record
        if value is None and record.key is None:
            value = b""  # the client sends no record without both
        try:
            return await self._producer.send(
                DEAD_LETTERS, record.key, value, headers=self._headers(letter)
            )
        except TooLarge as error:
            failed: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _headers(self, letter: Rejected) -> list[tuple[str, bytes]]:
        record = letter.record
        key_to_blame = letter.reason in (KEY_MISMATCH, BAD_BED_ID)
        said = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "connector.name": self._group,
            "stage": "KEY_CONVERTER" if key_to_blame else "VALUE_CONVERTER",
            "class.name": "streaming.codec.VitalsDecoder",
            "exception.class.name": f"vitalstream.{letter.reason}",
            "exception.message": f"{letter.reason}: {letter.detail}"
            if letter.detail
            else letter.reason,
        }
        own = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
        return own + [(PREFIX + name, str(said[name]).encode()) for name in HEADERS]
