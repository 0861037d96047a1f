"""The topics and their policies: created once, the same partition count for all of them.

Partition p of every topic speaks of the same beds; therefore counts must agree, and must not change
later.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from streaming.messages import ALERTS, CASES, DEAD_LETTERS, PREDICTIONS, VITALS, WINDOWS
from streaming.producer import Admin, TopicPlan

log = structlog.get_logger(__name__)

_MIB: Final = 1 << 20
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS

LARGEST_BYTES: Final = 8 * _MIB
"""What `icu.vitals` takes: more than a message may have, so that one too large is seen, named and
kept.
"""
LARGEST_LETTER_BYTES: Final = LARGEST_BYTES + _MIB
"""What the dead letters take: the largest message, its headers and the batch around it."""

TOPICS: Final[dict[str, dict[str, str]]] = {
    VITALS: {
        "cleanup.policy": "delete",
        "retention.ms": str(7 * _DAY_MS),
        "max.message.bytes": str(LARGEST_BYTES),
        # The broker's clock, whatever the sender's says: event times are checked against it.
        "message.timestamp.type": "LogAppendTime",
    },
    CASES: {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.ms": str(_HOUR_MS),
        "delete.retention.ms": str(7 * _DAY_MS),
    },
    PREDICTIONS: {"cleanup.policy": "delete", "retention.ms": str(7 * _DAY_MS)},
    WINDOWS: {
        "cleanup.policy": "compact",
        # A restart reads all of it: small segments, compacted soon, keep that to little more than
        # one snapshot a bed.
        "segment.bytes": str(4 * _MIB),
        "segment.ms": str(10 * _MINUTE_MS),
        "min.cleanable.dirty.ratio": "0.1",
        "max.compaction.lag.ms": str(30 * _MINUTE_MS),
        "delete.retention.ms": str(_DAY_MS),
    },
    ALERTS: {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.ms": str(_HOUR_MS),
        "delete.retention.ms": str(7 * _DAY_MS),
    },
    DEAD_LETTERS: {
        "cleanup.policy": "delete",
        "retention.ms": str(14 * _DAY_MS),
        "max.message.bytes": str(LARGEST_LETTER_BYTES),
    },
}
"""Every topic with Kafka's own settings for it."""


class TopicsDiffer(RuntimeError):
    """Topics have different partition counts, so that one bed's messages lie in different
    partitions.
    """


async def ensure_topics(
    servers: str, partitions: int = 12, replication: int = 1, timeout_s: float = 15.0
) -> dict[str, int]:
    """Create the topics that are missing; those that exist stay as they are.

    Missing topics get the partition count of those that exist, if any do. A broker that creates
    topics by itself (the embedded one) chooses its own count.

    Returns:
        The partition count of each topic.

    Raises:
        TopicsDiffer: Existing topics disagree.
        KafkaError: The cluster does not answer, or refuses.
        TimeoutError: The topics were created but have no leaders yet.
    """
    async with Admin(servers, timeout_s=timeout_s) as admin:
        found = _ours(await admin.partitions())
        count = _agreed(found) or partitions
        missing = [topic for topic in TOPICS if topic not in found]
        if missing and not admin.can_create:
            found |= await admin.touch(missing)
        elif missing:
            await admin.create(
                TopicPlan(topic, count, replication, _config(topic, replication))
                for topic in missing
            )
            log.info("topics created", topics=missing, partitions=count)
        deadline = time.monotonic() + timeout_s
        while len(found) < len(TOPICS):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no leader for {sorted(TOPICS.keys() - found.keys())}")
            found = _ours(await admin.partitions())
            if len(found) < len(TOPICS):
                await asyncio.sleep(0.05)
    _agreed(found)
    return found


def _config(topic: str, replication: int) -> dict[str, str]:
    config = TOPICS[topic] | {"unclean.leader.election.enable": "false"}
    if replication >= 3:
        config["min.insync.replicas"] = "2"
    return config


def _ours(found: dict[str, int]) -> dict[str, int]:
    return {topic: count for topic, count in found.items() if topic in TOPICS}


def _agreed(found: dict[str, int]) -> int | None:
    if len(set(found.values())) > 1:
        counts = ", ".join(f"{topic} {count}" for topic, count in sorted(found.items()))
        raise TopicsDiffer(f"all topics need the same number of partitions, but: {counts}")
    return next(iter(found.values()), None)
