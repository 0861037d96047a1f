"""The simulate role over the embedded broker."""

import asyncio

import pytest

from app.lifecycle import Deadline
from app.roles.simulate import Simulate
from app.settings import BadSetting, load
from streaming.broker import EmbeddedBroker
from streaming.codec import VitalsDecoder, decode_case
from streaming.messages import CASES, VITALS
from streaming.reader import Reader


@pytest.fixture
async def broker():
    """An embedded broker of this test's own."""
    async with EmbeddedBroker() as running:
        yield running


async def everything(servers, topic):
    """All records of a topic, by partition and offset."""
    async with Reader(servers) as reader:
        return [
            record
            async for records in reader.read(topic, await reader.partitions(topic))
            for record in records
        ]


async def until(condition, seconds=20.0):
    """Wait for what the role will have done, failing past the limit."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                break
            await asyncio.sleep(0.01)


async def test_every_bed_has_a_case_a_past_and_a_live_value(broker):
    """What `run` shows first: a ward seen whole, with the hours behind it."""
    role = Simulate(
        load(kafka=broker.servers, beds=6, seed=1, rate=5.0, history_h=2.0, artefacts=0)
    )
    await role.start()
    history = 6 * (120 + 4)  # and at most four rounds of the laboratory and the nurse
    await until(lambda: role.acknowledged >= history + 12)
    health = role.health()["simulate"]
    await role.drain(Deadline(5))
    cases = await everything(broker.servers, CASES)
    records = await everything(broker.servers, VITALS)
    accepted, rejected = VitalsDecoder().decode(records)

    assert health.ok
    assert rejected == []
    assert {decode_case(r.value, r.key).bed_id for r in cases} == set(accepted.bed_ids)
    assert len(set(accepted.bed_ids)) == 6
    assert {c.decode() for c in (r.key for r in records)} == set(accepted.bed_ids)
    assert accepted.ts_ms.max() - accepted.ts_ms.min() >= 2 * 3_600_000
    assert role.lost == 0


async def test_draining_twice_and_after_a_failed_start_is_harmless(broker):
    """A role that never started has nothing to stop."""
    role = Simulate(load(kafka=broker.servers, beds=1, history_h=0))
    await role.drain(Deadline(1))
    await role.start()
    await role.drain(Deadline(2))
    await role.drain(Deadline(2))


async def test_without_a_cluster_the_start_says_which_setting():
    """There is no default broker to simulate into."""
    with pytest.raises(BadSetting, match="kafka"):
        Simulate(load(beds=1))
