"""Partitions move between workers without a gap, a repeat that differs, or a mixed window."""

from collections.abc import Awaitable, Callable

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def test_workers_that_come_and_go_lose_nothing(
    survives: Callable[..., Awaitable[None]],
) -> None:
    """Two workers share the beds for a while; the first one leaves."""
    await survives("rebalance", seconds=6)


async def test_a_worker_stopped_past_its_session_does_no_harm(
    survives: Callable[..., Awaitable[None]],
) -> None:
    """SIGSTOP, another takes over, SIGCONT: late acknowledgements and commits change nothing."""
    await survives("freeze", seconds=6)
