"""`vitalstream topics`: create the topics with their policies."""

from __future__ import annotations

from app.settings import BadSetting, Settings
from streaming.topics import ensure_topics


async def create(settings: Settings) -> dict[str, int]:
    """Create what is missing on the cluster of the settings.

    Returns:
        The partition count of each topic.

    Raises:
        BadSetting: No cluster is named.
        TopicsDiffer: Existing topics have different partition counts.
        KafkaError, TimeoutError: The cluster does not answer, or refuses.
    """
    if settings.kafka is None:
        raise BadSetting("kafka: None is not allowed: HOST:PORT, comma-separated")
    return await ensure_topics(settings.kafka, settings.partitions, settings.replication)
