"""The embedded broker: librdkafka's mock cluster speaks Kafka's protocol inside this process, for
trying things out.

It keeps everything in memory, about 5 MB a partition (the oldest goes first), compacts nothing,
fences nobody, gives every topic 4 partitions, looks nothing up by time, lets a member back into its
group only after the session timeout, and forgets all at exit. For anything that matters use a real
Kafka.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

from confluent_kafka import Producer

from streaming.topics import ensure_topics

PARTITIONS: Final = 4
"""Partitions of a topic on the embedded broker; it knows no other number."""
_START_S: Final = 10.0


class EmbeddedBroker:
    """An in-process Kafka-protocol broker with all topics: `async with EmbeddedBroker() as broker:
    broker.servers`.
    """

    def __init__(self) -> None:
        self._cluster: Producer | None = None
        self.servers = ""
        """HOST:PORT, once started."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start on a free loopback port and create the topics. Raises RuntimeError where it does
        not start.
        """
        # The mock cluster lives as long as the client that asked for it.
        self._cluster = Producer({"test.mock.num.brokers": 1, "log_level": 3})
        found = await asyncio.to_thread(self._cluster.list_topics, timeout=_START_S)
        brokers = list(found.brokers.values())
        if not brokers:
            await self.stop()
            raise RuntimeError("the embedded broker did not start")
        self.servers = f"{brokers[0].host}:{brokers[0].port}"
        await ensure_topics(self.servers, PARTITIONS)

    async def stop(self) -> None:
        """Stop; what it held is gone. May be called twice."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await asyncio.to_thread(cluster.flush, 0)
            del cluster
