"""Nothing is lost, nothing is said twice differently, whatever happens to workers and broker."""

from collections.abc import Awaitable, Callable

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def test_a_worker_killed_under_load_loses_nothing(
    survives: Callable[..., Awaitable[None]],
) -> None:
    """SIGKILL twice, with the shipped network: all is predicted, repeats are equal."""
    await survives("kill", shipped=True, seconds=6)


async def test_a_restarted_broker_loses_nothing(survives: Callable[..., Awaitable[None]]) -> None:
    """The broker goes and comes while observations flow."""
    await survives("broker", seconds=6)
