"""Topics are made once, with their policies, on a real Kafka."""

from __future__ import annotations

from typing import Any

import pytest

from streaming import messages
from streaming.producer import Admin, TopicPlan
from streaming.topics import TOPICS, TopicsDiffer, ensure_topics

pytestmark = pytest.mark.integration


async def test_all_topics_have_the_same_partition_count(stream: Any) -> None:
    """Partition p of every topic speaks of the same beds."""
    async with Admin(stream.servers) as admin:
        found = await admin.partitions()
    assert {topic: found[topic] for topic in TOPICS} == dict.fromkeys(TOPICS, stream.partitions)


async def test_topics_that_exist_stay_as_they_are(stream: Any) -> None:
    """A second creation, asking for another count, changes nothing and reports what is there."""
    found = await ensure_topics(stream.servers, 9)
    assert found == dict.fromkeys(TOPICS, stream.partitions)


async def test_policies_are_those_of_the_contract(stream: Any) -> None:
    """Cases, windows and alerts are compacted, the others expire; observations carry the broker's
    clock.
    """
    async with Admin(stream.servers) as admin:
        configs = {topic: await admin.config(topic) for topic in TOPICS}
    compacted = {t for t, config in configs.items() if config["cleanup.policy"] == "compact"}
    assert compacted == {messages.CASES, messages.WINDOWS, messages.ALERTS}
    assert configs[messages.VITALS]["message.timestamp.type"] == "LogAppendTime"
    for topic in (messages.VITALS, messages.DEAD_LETTERS):
        assert int(configs[topic]["max.message.bytes"]) > 4 * messages.MAX_MESSAGE_BYTES


async def test_topics_that_disagree_are_an_error(stream: Any) -> None:
    """A topic made by hand with another partition count is named."""
    async with Admin(stream.servers) as admin:
        await admin.delete([messages.ALERTS])
        while messages.ALERTS in await admin.partitions():
            pass
        await admin.create([TopicPlan(messages.ALERTS, 3, 1)])
    with pytest.raises(TopicsDiffer, match=r"icu\.alerts 3"):
        await ensure_topics(stream.servers)


async def test_a_missing_topic_takes_the_count_of_the_others(stream: Any) -> None:
    """Whatever the setting says, the new topic fits those that are there."""
    async with Admin(stream.servers) as admin:
        await admin.delete([messages.WINDOWS])
        while messages.WINDOWS in await admin.partitions():
            pass
    found = await ensure_topics(stream.servers, 12)
    assert found[messages.WINDOWS] == stream.partitions
