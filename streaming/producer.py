"""The door to writing Kafka: a producer that loses nothing it acknowledged, and the topics' administration.

Waiting for room and waiting for the result are two awaits: `send` awaits room only and returns the result's future.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata as Sent

__all__ = ["Admin", "KafkaError", "NewTopic", "Producer", "Sent"]

log = structlog.get_logger(__name__)

Headers = Sequence[tuple[str, bytes]]


class Producer:
    """Idempotent, acknowledged by all replicas, partitioned by murmur2 of the key as Java's clients do.

    Survives a broker's restart: what is in flight is sent again until `delivery_timeout_s`, then its future fails
    with KafkaError.
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
        self._options: dict[str, Any] = {
            "bootstrap_servers": servers,
            "client_id": client_id,
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": linger_ms,
            "max_batch_size": batch_bytes,
            "max_request_size": max_request_bytes,
            "request_timeout_ms": int(delivery_timeout_s * 1_000),
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": 30_000,
        }
        self._client: AIOKafkaProducer | None = None

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
        self._client = AIOKafkaProducer(**self._options)
        await self._client.start()

    async def stop(self) -> None:
        """Send what is left and disconnect. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.stop()

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
        future: asyncio.Future[Sent] = await self._live().send(
            topic, value, key, partition, timestamp_ms, headers
        )
        return future

    async def send_many(
        self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]]
    ) -> list[asyncio.Future[Sent]]:
        """`send` for (key, value) pairs, in order; a future for each."""
        send = self._live().send
        return [await send(topic, value, key) for key, value in messages]

    async def flush(self, deadline_s: float = 10.0) -> bool:
        """Wait until all that was taken over is acknowledged or has failed; False past the deadline."""
        try:
            await asyncio.wait_for(self._live().flush(), deadline_s)
        except TimeoutError:
            log.warning("flush ran out of time", deadline_s=deadline_s)
            return False
        return True

    def _live(self) -> AIOKafkaProducer:
        if self._client is None:
            raise RuntimeError("producer: not started")
        return self._client
