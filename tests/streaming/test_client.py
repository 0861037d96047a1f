"""Parting from a cluster that is away."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from streaming.broker import EmbeddedBroker
from streaming.client import aside, part
from streaming.messages import VITALS
from streaming.reader import Reader


class Consumer:
    """A consumer whose stop ends as the test wants it to."""

    def __init__(self, stop: Any) -> None:
        self.stop = stop
        self.closed = False
        self._fetcher = SimpleNamespace(_pending_tasks=set())
        self._client = SimpleNamespace(close=self._close)

    async def _close(self) -> None:
        self.closed = True


async def cancelled() -> None:
    """As a fetcher's own task that it has cancelled."""
    raise asyncio.CancelledError


async def test_a_cancellation_of_its_own_is_not_the_callers() -> None:
    """The connections are closed all the same."""
    consumer = Consumer(cancelled)
    await part(consumer, 1.0)

    assert consumer.closed


async def test_the_callers_cancellation_is_heard() -> None:
    """Whoever waits for a consumer can be told to stop."""
    parting = asyncio.create_task(part(Consumer(asyncio.Event().wait), 60.0))
    await asyncio.sleep(0)
    parting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await parting


async def test_one_that_does_not_part_in_time_is_left() -> None:
    """And what goes wrong is told."""
    with pytest.raises(TimeoutError):
        await part(Consumer(asyncio.Event().wait), 0.0)


async def test_a_reader_parts_from_a_broker_that_is_gone() -> None:
    """Its fetches wait to be tried again; nobody is cancelled by that."""
    async with EmbeddedBroker() as broker, Reader(broker.servers) as reader:
        async for _ in reader.follow([VITALS]):
            await broker.stop()
            await asyncio.sleep(0.5)  # a fetch has failed by then
            break


async def closing(begun: asyncio.Event, stubborn: bool = False) -> str:
    """Like aiokafka's: takes any cancellation for that of the task that it waits for."""
    begun.set()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    if stubborn:
        await asyncio.Event().wait()
    return "closed"


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_caller_that_is_cancelled_ends(stubborn: bool) -> None:
    """Whatever the closing client makes of it."""
    begun = asyncio.Event()
    caller = asyncio.create_task(aside(closing(begun, stubborn), 60.0))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_who_does_not_close_in_time_is_given_up() -> None:
    """Also where it swallows that it is cancelled."""
    with pytest.raises(TimeoutError):
        await aside(closing(asyncio.Event()), 0.01)


async def test_what_closes_in_time_gives_what_it_gives() -> None:
    """Its result, or what it raises."""

    async def failing() -> None:
        raise ValueError("as it is")

    assert await aside(asyncio.sleep(0, "done"), 5.0) == "done"
    with pytest.raises(ValueError, match="as it is"):
        await aside(failing(), 5.0)
