"""Nothing is lost, nothing is said twice differently, whatever happens to workers and broker."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

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


async def test_newest_windows_are_predicted_whatever_happens(
    survives: Callable[..., Awaitable[None]],
) -> None:
    """`emit=latest`, the default: after SIGKILL under load every bed's newest window is."""
    await survives("kill", seconds=6, emit="latest")


async def test_a_database_that_was_away_has_everything_once(
    survives: Callable[..., Awaitable[None]], postgres: Any
) -> None:
    """PostgreSQL crashes under load and comes back: no trend, history or alert is lost or twice."""
    url = postgres.create(f"away_{os.getpid()}")
    await survives(
        "database_away",
        beds=50,
        rate=50,
        seconds=14,
        away_s=9,
        database=(url, postgres.stop, postgres.start),
    )
