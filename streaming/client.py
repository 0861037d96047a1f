"""What every client of Kafka is told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

REQUEST_S: Final = 15.0
"""Longest wait for a single answer of the cluster."""
FETCH_BYTES: Final = 4 << 20
"""Fetched of one partition at once; a larger message still arrives, alone."""


def common(servers: str, client_id: str) -> dict[str, Any]:
    """Settings of all clients."""
    return {
        "bootstrap_servers": servers,
        "client_id": client_id,
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 30_000,
    }


def reading(servers: str, client_id: str, group: str | None, max_records: int) -> dict[str, Any]:
    """Settings of all that read; nothing is committed unless it is asked for."""
    return common(servers, client_id) | {
        "group_id": group,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "max_poll_records": max_records,
        "max_partition_fetch_bytes": FETCH_BYTES,
        # One fetch is in flight at a time: a partition that was just resumed waits for it.
        "fetch_max_wait_ms": 100,
    }


async def aside(work: Coroutine[Any, Any, _T], within_s: float) -> _T:
    """Do what closes something of aiokafka in a task of its own.

    It waits for tasks that it has cancelled, and takes its caller's cancellation for theirs. Raises
    TimeoutError.
    """
    return (await _ended(work, within_s)).result()


async def _ended(work: Coroutine[Any, Any, _T], within_s: float) -> asyncio.Task[_T]:
    """The task of some work that has ended, in whatever way; raises TimeoutError."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=within_s)
    finally:
        late = not task.done()
        task.cancel()
    if late:
        await asyncio.wait({task}, timeout=1.0)
        raise TimeoutError
    return task


async def part(consumer: Any, within_s: float) -> None:
    """Stop a consumer of aiokafka.

    One that is stopped while its fetcher waits to ask a broker that is away again tells of the
    cancellation that it asked for itself, and leaves its connections open. That is not the
    caller's cancellation, and would pass for it.

    Raises:
        KafkaError: It did not part in order.
        TimeoutError: Nor in time.
    """
    stopping = await _ended(consumer.stop(), within_s)
    if not stopping.cancelled():
        stopping.result()
        return
    for fetch in list(consumer._fetcher._pending_tasks):
        fetch.cancel()
    await consumer._client.close()
