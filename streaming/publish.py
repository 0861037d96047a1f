"""What is sent is kept until it is acknowledged; acknowledgements are handed back in bulk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog

from streaming.producer import KafkaError, Producer
from streaming.telemetry import SILENT, Telemetry

log = structlog.get_logger(__name__)

RETRY_S = 0.5


class Outgoing(NamedTuple):
    """A message on its way, and what its sender wants to be reminded of when it is acknowledged."""

    topic: str
    key: bytes
    value: bytes | None
    ticket: Any


class Publisher:
    """Sends messages in order and never loses one: what fails is sent again until it succeeds.

    Args:
        producer: The door to Kafka.
        acknowledged: Called on the loop with the acknowledged messages, in bulk.
        telemetry: Hears of published and retried messages.
    """

    def __init__(
        self,
        producer: Producer,
        acknowledged: Callable[[Sequence[Outgoing]], None],
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._producer = producer
        self._acknowledged = acknowledged
        self._telemetry = telemetry
        self._queue: deque[Outgoing] = deque()
        self._heard: list[Outgoing] = []
        self._failed: list[Outgoing] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_flight = 0
        self._failure: BaseException | None = None

    @property
    def waiting(self) -> int:
        """Messages not acknowledged yet."""
        return len(self._queue) + self._in_flight + len(self._failed)

    def put(self, messages: Sequence[Outgoing]) -> None:
        """Take messages over. Never blocks: the pipeline bounds what it has under way."""
        if messages:
            self._queue.extend(messages)
            self._idle.clear()
            self._wake.set()

    async def run(self) -> None:
        """Send for ever.

        Raises:
            KafkaError: A message that no retry will get through.
        """
        send, queue = self._producer.send, self._queue
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._failure is not None:
                raise self._failure
            while queue:
                message = queue.popleft()
                self._in_flight += 1
                try:
                    future = await send(message.topic, message.key, message.value)
                except KafkaError as error:
                    await self._again(message, error)
                    continue
                future.add_done_callback(_Heard(self, message))

    async def drained(self) -> None:
        """Return when everything was acknowledged."""
        await self._idle.wait()

    async def _again(self, message: Outgoing, error: KafkaError) -> None:
        if not error.retriable:
            raise error
        self._in_flight -= 1
        self._queue.appendleft(message)
        self._wake.set()
        self._telemetry.message(message.topic, "retried")
        log.warning("not published yet, sent again", topic=message.topic, error=repr(error))
        await asyncio.sleep(RETRY_S)

    def _result(self, message: Outgoing, future: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        error = None if future.cancelled() else future.exception()
        if error is not None or future.cancelled():
            if not getattr(error, "retriable", True):
                self._failure = error
            # What failed together goes together, ahead of what was not sent yet: beds' messages
            # stay in order.
            if not self._failed:
                asyncio.get_running_loop().call_soon(self._put_back)
            self._failed.append(message)
            self._telemetry.message(message.topic, "retried")
            return
        if not self._heard:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._heard.append(message)

    def _put_back(self) -> None:
        failed, self._failed = self._failed, []
        self._queue.extendleft(reversed(failed))
        self._wake.set()

    def _deliver(self) -> None:
        heard, self._heard = self._heard, []
        counts: dict[str, int] = {}
        for message in heard:
            counts[message.topic] = counts.get(message.topic, 0) + 1
        for topic, count in counts.items():
            self._telemetry.message(topic, "published", count)
        self._acknowledged(heard)
        if not self.waiting:
            self._idle.set()


class _Heard:
    """A future's callback; a class with slots costs less than a closure or a partial."""

    __slots__ = ("message", "publisher")

    def __init__(self, publisher: Publisher, message: Outgoing) -> None:
        self.publisher = publisher
        self.message = message

    def __call__(self, future: asyncio.Future[Any]) -> None:
        self.publisher._result(self.message, future)
