"""The door to writing Kafka: a producer that loses nothing it acknowledged, and the topics'
administration.

Waiting for room and waiting for the result are two awaits: `send` awaits room only and returns the
result's future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.errors import MessageSizeTooLargeError as TooLarge
from aiokafka.structs import RecordMetadata as Sent

from streaming.client import aside, common

__all__ = ["Admin", "KafkaError", "Producer", "Sent", "TooLarge", "TopicPlan"]

log = structlog.get_logger(__name__)

STOP_S = 10.0
"""Longest wait for what is left to be acknowledged."""
Headers = Sequence[tuple[str, bytes]]


class Producer:
    """Idempotent, acknowledged by all replicas, partitioned by murmur2 of the key as Java's clients
    do.

    Survives a broker's restart: what is in flight is sent again until it is acknowledged, in order
    and without repeats, however long that takes. What waits for a partition without a leader fails
    after `delivery_timeout_s`.

    A message that is refused (too large for its topic) leaves a gap in the sequence that
    idempotence counts, and all that follow it on its partition would be refused as well; therefore
    the client is made anew after a failure.
    """

    def __init__(
        self,
        servers: str,
        *,
        linger_ms: float = 2.0,
        delivery_timeout_s: float = 60.0,
        max_request_bytes: int = 1 << 20,
        batch_bytes: int = 64 << 10,
        client_id: str = "vitalstream",
    ) -> None:
        self._options = common(servers, client_id) | {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": linger_ms,
            "max_batch_size": batch_bytes,
            "max_request_size": max_request_bytes,
            "request_timeout_ms": int(delivery_timeout_s * 1_000),
        }
        self._client: AIOKafkaProducer | None = None
        self._failed = False
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect. Raises KafkaError where no broker answers."""
        self._client = await self._connect()

    async def stop(self, deadline_s: float = STOP_S) -> None:
        """Send what is left, for `deadline_s` at most, and disconnect. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client, deadline_s)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> asyncio.Future[Sent]:
        """Take a message over, waiting only for room; the future is the acknowledgement.

        Raises:
            KafkaError: No room within the delivery timeout, or the message is too large.
        """
        client = self._client
        if client is None or self._failed:
            client = await self._renew()
        future: asyncio.Future[Sent] = await client.send(
            topic, value, key, partition, timestamp_ms, headers
        )
        return future

    async def send_many(
        self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]]
    ) -> list[asyncio.Future[Sent]]:
        """`send` for (key, value) pairs, in order; a future for each."""
        return [await self.send(topic, key, value) for key, value in messages]

    async def flush(self, deadline_s: float = 10.0) -> bool:
        """Wait until all that was taken over is acknowledged or has failed; False past the
        deadline.
        """
        if self._client is None:
            return True
        try:
            async with asyncio.timeout(deadline_s):
                await self._client.flush()
        except TimeoutError:
            log.warning("flush ran out of time", deadline_s=deadline_s)
            return False
        return True

    async def _connect(self) -> AIOKafkaProducer:
        client = AIOKafkaProducer(**self._options)
        accumulator = client._message_accumulator
        append_batch = accumulator._append_batch

        def append(*args: Any) -> Any:
            batch = append_batch(*args)
            batch.future.add_done_callback(partial(self._note, client))
            return batch

        accumulator._append_batch = append
        try:
            await client.start()
        except BaseException:
            await client.stop()
            raise
        return client

    def _note(self, client: AIOKafkaProducer, batch: asyncio.Future[Any]) -> None:
        if client is self._client and not batch.cancelled() and batch.exception() is not None:
            self._failed = True

    async def _renew(self) -> AIOKafkaProducer:
        async with self._renewing:
            old = self._client
            if old is None:
                raise KafkaConnectionError("producer: not connected")
            if not self._failed:
                return old
            log.warning("producer made anew after a failed batch")
            # In order: what the old client still holds goes first.
            await self.flush(STOP_S)
            self._client = await self._connect()
            self._failed = False
            await _close(old, STOP_S)
            return self._client


async def _close(client: AIOKafkaProducer, deadline_s: float) -> None:
    try:
        await aside(client.stop(), deadline_s)
    except TimeoutError:
        log.warning("producer stopped with messages that were not acknowledged")
        # The sender first: it stumbles over batches that failed behind its back.
        results = await asyncio.gather(
            aside(client._sender.close(), 1.0), client.client.close(), return_exceptions=True
        )
        log.debug("producer cut off", results=[repr(result) for result in results])
        accumulator = client._message_accumulator
        for batch in [*chain(*accumulator._batches.values()), *accumulator._pending_batches]:
            batch.failure(KafkaConnectionError("producer stopped"))
            batch._drain_waiter.exception()  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic to be: partitions, copies and Kafka's own settings."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)


class Admin:
    """Looks after topics."""

    def __init__(self, servers: str, *, timeout_s: float = 15.0) -> None:
        self._servers = servers
        self._timeout_ms = int(timeout_s * 1_000)
        self._client: AIOKafkaAdminClient | None = None

    async def __aenter__(self) -> Self:
        client = AIOKafkaAdminClient(
            bootstrap_servers=self._servers,
            client_id="vitalstream-admin",
            request_timeout_ms=self._timeout_ms,
        )
        try:
            await client.start()
            await client._client.force_metadata_update()
        except BaseException:
            await client.close()
            raise
        self._client = client
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def can_create(self) -> bool:
        """Whether the cluster has a controller; the embedded broker has none and makes topics when
        asked for.
        """
        return self._live()._client.cluster.controller is not None

    async def partitions(self) -> dict[str, int]:
        """Partition count of every topic there is; asks for none by name, which could create it."""
        return self._counts(await self._live().describe_topics(None))

    async def touch(self, topics: Sequence[str]) -> dict[str, int]:
        """Ask for topics by name, which creates them on a broker that does so; partition counts."""
        return self._counts(await self._live().describe_topics(list(topics)))

    async def create(self, plans: Iterable[TopicPlan]) -> None:
        """Create topics; one that exists stays as it is. Raises KafkaError."""
        answer = await self._live().create_topics(
            [
                NewTopic(p.name, p.partitions, p.replication, topic_configs=dict(p.config))
                for p in plans
            ]
        )
        for name, code, message in answer.topic_errors:
            if code and code != TopicAlreadyExistsError.errno:
                raise for_code(code)(f"{name}: {message}")

    async def delete(self, topics: Sequence[str]) -> None:
        """Delete topics and what is in them. Raises KafkaError."""
        answer = await self._live().delete_topics(list(topics))
        for name, code in answer.topic_error_codes:
            if code:
                raise for_code(code)(name)

    async def config(self, topic: str) -> dict[str, str]:
        """Kafka's settings of a topic."""
        (answer,) = await self._live().describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic)]
        )
        _, _, _, _, entries = answer.resources[0]
        return {entry[0]: entry[1] for entry in entries}

    @staticmethod
    def _counts(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
        return {
            topic["topic"]: len(topic["partitions"])
            for topic in found
            if topic["partitions"] and all(p["leader"] >= 0 for p in topic["partitions"])
        }

    def _live(self) -> AIOKafkaAdminClient:
        if self._client is None:
            raise RuntimeError("admin: not started")
        return self._client
