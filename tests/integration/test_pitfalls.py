"""The client's pitfalls P1 to P10, on a real Kafka: each is dealt with by `streaming.consumer`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from streaming.consumer import ConsumerFailed, GroupConsumer, TopicPartition
from streaming.messages import VITALS
from streaming.producer import Producer

pytestmark = pytest.mark.integration

SESSION_MS = 1_500
WAIT_S = 30.0
ALL = frozenset(TopicPartition(VITALS, p) for p in range(4))


class Member:
    """A group member that keeps what it was told and what it got."""

    def __init__(self, stream: Any, name: str = "p", resume: bool = False, **options: Any) -> None:
        self.assigned: list[tuple[int, int]] = []
        self.got: dict[TopicPartition, list[int]] = {}
        self._resume = resume
        given = {"session_timeout_ms": SESSION_MS, "on_assigned": self._on_assigned} | options
        self.consumer = GroupConsumer(stream.servers, f"{stream.group}-{name}", [VITALS], **given)

    def _on_assigned(self, partitions: frozenset[TopicPartition], epoch: int) -> None:
        self.assigned.append((epoch, len(partitions)))
        if self._resume:
            self.consumer.resume(*partitions)

    async def __aenter__(self) -> Member:
        await self.consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.consumer.stop()

    async def poll(self, times: int = 1) -> int:
        count = 0
        for _ in range(times):
            for partition, records in (await self.consumer.poll(100)).items():
                self.got.setdefault(partition, []).extend(r.offset for r in records)
                count += len(records)
        return count

    async def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, "in vain"
            await self.poll()

    @property
    def total(self) -> int:
        return sum(map(len, self.got.values()))


async def publish(servers: str, each: int = 10) -> None:
    """`each` records to every partition."""
    async with Producer(servers) as producer:
        for partition in range(4):
            for _ in range(each):
                await producer.send(VITALS, b"A", b"x", partition=partition)
        assert await producer.flush()


async def together(*members: Member, done: Callable[[], bool]) -> None:
    await asyncio.gather(*(member.until(done) for member in members))


async def test_p1_nothing_is_delivered_before_its_partition_is_resumed(stream: Any) -> None:
    """An assigned partition stays silent until its owner resumes it, and then begins at its first
    record.
    """
    await publish(stream.servers)
    async with Member(stream) as member:
        assert await member.poll(5) == 0
        assert member.consumer.paused() == ALL
        one = TopicPartition(VITALS, 2)
        member.consumer.resume(one)
        await member.until(lambda: member.total == 10)
        assert member.got == {one: list(range(10))}


async def test_p1_what_the_client_hands_over_too_early_is_not_lost(stream: Any) -> None:
    """Records of a partition that nobody resumed are put back, not passed on."""
    await publish(stream.servers)
    async with Member(stream) as member:
        member.consumer._live().resume(*ALL)  # the client's own slip
        assert await member.poll(5) == 0
        member.consumer.resume(*ALL)
        await member.until(lambda: member.total == 40)
        assert member.got == {partition: list(range(10)) for partition in ALL}


async def test_p2_a_restore_longer_than_the_session_keeps_the_membership(stream: Any) -> None:
    """The callback returns at once, so that heartbeats go on while windows are restored."""
    await publish(stream.servers)
    async with Member(stream) as member:
        restore = asyncio.create_task(asyncio.sleep(2.5 * SESSION_MS / 1_000))
        await member.until(restore.done)
        assert member.assigned == [(1, 4)]
        assert await member.consumer.commit({TopicPartition(VITALS, 0): (3, "")})


@pytest.mark.parametrize("callback", ["on_assigned", "on_revoked"])
async def test_p3_a_failed_callback_comes_out_of_the_next_poll(stream: Any, callback: str) -> None:
    """The client logs such an error and goes on with state that was never restored."""

    def fail(*_: object) -> None:
        raise ValueError("no windows")

    async with Member(stream, **{callback: fail}) as member:
        if callback == "on_revoked":
            member.consumer._live()._coordinator.request_rejoin()
        with pytest.raises(ConsumerFailed, match="no windows"):
            await member.until(lambda: False)


async def test_p4_a_rebalance_pauses_all_and_goes_back_to_what_was_committed(stream: Any) -> None:
    """Also partitions that stay are new: a new epoch, paused, from the committed offset."""
    await publish(stream.servers)
    async with Member(stream, resume=True) as first:
        await first.until(lambda: first.total == 40)
        assert await first.consumer.commit(dict.fromkeys(ALL, (4, "")))
        first._resume = False
        second = Member(stream)
        joining = asyncio.create_task(second.consumer.start())
        await first.until(lambda: joining.done() and len(first.consumer.assignment) == 2)
        try:
            assert first.consumer.epoch == 2
            assert first.consumer.paused() == first.consumer.assignment
            assert first.consumer.assignment | second.consumer.assignment == ALL
            first.got.clear()
            first.consumer.resume(*ALL)
            second.consumer.resume(*ALL)
            await together(first, second, done=lambda: first.total + second.total == 24)
            assert first.got == {p: [4, 5, 6, 7, 8, 9] for p in first.consumer.assignment}
            assert second.got == {p: [4, 5, 6, 7, 8, 9] for p in second.consumer.assignment}
        finally:
            await second.consumer.stop()


async def test_p5_a_blocked_loop_is_noticed_and_survived(stream: Any) -> None:
    """The lag is measured; the lost membership costs a new epoch, and no record."""
    await publish(stream.servers)
    async with Member(stream, resume=True) as member:
        await member.until(lambda: member.total == 40)
        time.sleep(2.2 * SESSION_MS / 1_000)  # noqa: ASYNC251
        await member.until(lambda: member.consumer.epoch == 2 and member.total == 80)
        assert member.consumer.loop_lag_s > 1.5 * SESSION_MS / 1_000
        assert member.got == {partition: [*range(10), *range(10)] for partition in ALL}


async def test_p6_a_cancelled_poll_leaves_the_poll_interval_switched_on(stream: Any) -> None:
    """A member that stopped polling for good loses its partitions to another one."""
    async with Member(stream, max_poll_interval_ms=1_000) as stuck:
        poll = asyncio.create_task(stuck.consumer.poll(60_000))
        await stuck.consumer.end_offsets(ALL)
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
        async with Member(stream) as other:
            await other.until(lambda: other.consumer.assignment == ALL)


async def test_p7_a_commit_after_the_rebalance_is_refused_without_an_error(stream: Any) -> None:
    """The new owner's commits stand; the old one's offsets of lost partitions are left out."""
    async with Member(stream) as first:
        epoch = first.consumer.epoch
        second = Member(stream)
        joining = asyncio.create_task(second.consumer.start())
        await first.until(lambda: joining.done() and len(first.consumer.assignment) == 2)
        try:
            gone = next(iter(second.consumer.assignment))
            kept = next(iter(first.consumer.assignment))
            assert await second.consumer.commit({gone: (7, "low=5")})
            assert not await first.consumer.commit({gone: (1, ""), kept: (2, "")})
            assert not await first.consumer.commit({kept: (3, "")}, epoch=epoch)
            assert await second.consumer.committed(gone) == (7, "low=5")
            assert await first.consumer.committed(kept) == (2, "")
        finally:
            await second.consumer.stop()


async def test_p7_a_commit_by_a_member_that_was_put_out_says_so(stream: Any) -> None:
    """The group forgot this generation while the loop was blocked."""
    async with Member(stream) as member:
        time.sleep(2.2 * SESSION_MS / 1_000)  # noqa: ASYNC251
        done = await member.consumer.commit(dict.fromkeys(ALL, (1, "")))
        assert not done or member.consumer.epoch == 2


async def test_p8_consumption_goes_on_after_a_broker_restart(stream: Any) -> None:
    """A broker that was killed and came back costs time only."""
    await publish(stream.servers)
    async with Member(stream, resume=True) as member:
        await member.until(lambda: member.total == 40)
        assert await member.consumer.commit(dict.fromkeys(ALL, (10, "")))
        await asyncio.to_thread(stream.server.kill)
        starting = asyncio.create_task(asyncio.to_thread(stream.server.start))
        await member.until(starting.done)
        await publish(stream.servers, 5)
        await member.until(lambda: all(p in member.got and member.got[p][-1] == 14 for p in ALL))
        assert all(sorted(set(offsets)) == list(range(15)) for offsets in member.got.values())


async def test_p8_a_partition_that_does_not_move_is_named(stream: Any) -> None:
    """Lag without progress is stuck, a paused partition is not."""
    async with Member(stream, resume=True) as member:
        held = TopicPartition(VITALS, 0)
        member.consumer.pause(held)
        await publish(stream.servers)
        deadline = time.monotonic() + WAIT_S
        while member.consumer.stuck(0.5) != ALL - {held}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert sum(member.consumer.lag().values()) == 40
        await member.until(lambda: member.total == 30)
        assert member.consumer.stuck(0.5) == frozenset()


async def test_p8_a_client_that_stopped_without_a_word_is_made_anew(stream: Any) -> None:
    """The fetching task dies: the consumer notices, joins again and misses nothing."""
    async with Member(stream, resume=True, revive_after_s=1.0) as member:
        member.consumer._live()._fetcher._fetch_task.cancel()
        await publish(stream.servers)
        await member.until(lambda: member.total == 40)
        assert member.consumer.revived == 1
        assert member.got == {partition: list(range(10)) for partition in ALL}


async def test_p8_a_caller_that_did_not_poll_is_not_blamed_on_the_client(stream: Any) -> None:
    """Who waits for a database makes no new client, and loses nothing."""
    await publish(stream.servers)
    async with Member(stream, resume=True, revive_after_s=1.0) as member:
        deadline = time.monotonic() + WAIT_S
        while member.consumer.stuck(2.5) != ALL:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        await member.until(lambda: member.total == 40)
        assert (member.consumer.revived, member.consumer.epoch) == (0, 1)


async def test_p9_a_failed_batch_is_delivered_again_after_a_seek(stream: Any) -> None:
    """The position moves on with the poll, whatever becomes of the records."""
    await publish(stream.servers)
    async with Member(stream, resume=True) as member:
        await member.until(lambda: member.total == 40)
        failed = TopicPartition(VITALS, 1)
        member.consumer.seek(failed, 6)
        assert await member.consumer.position(failed) == 6
        await member.until(lambda: member.total == 44)
        assert member.got[failed] == [*range(10), 6, 7, 8, 9]


async def test_p10_a_drain_longer_than_the_session_may_still_commit(stream: Any) -> None:
    """Revocation has the rebalance timeout, and what it commits is where the new owner starts."""
    await publish(stream.servers)
    commits: list[bool] = []

    async def drain(partitions: frozenset[TopicPartition]) -> None:
        await asyncio.sleep(1.5 * SESSION_MS / 1_000)
        commits.append(await first.consumer.commit(dict.fromkeys(partitions, (8, ""))))

    revoked: Callable[[frozenset[TopicPartition]], Awaitable[None]] = drain
    async with Member(stream, on_revoked=revoked) as first:
        second = Member(stream, resume=True)
        joining = asyncio.create_task(second.consumer.start())
        await first.until(lambda: joining.done() and len(first.consumer.assignment) == 2)
        try:
            await together(first, second, done=lambda: second.total == 4)
            assert commits == [True]
            assert second.got == {p: [8, 9] for p in second.consumer.assignment}
        finally:
            await second.consumer.stop()
