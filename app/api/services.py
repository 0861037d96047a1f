"""What the routes work with; the role makes it, tests may make their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request

from app.api.problems import Problem
from app.api.stream import Broadcaster
from app.api.view import LatestView
from app.lifecycle import Health
from app.metrics import Metrics
from app.ward.store import Store
from streaming.messages import Case, Observation, Prediction

PublishAck = Callable[[str, str, bytes | None], Awaitable[None]]
"""Publish a value under a key and return when it is acknowledged: topic, key, value."""


class Adhoc(Protocol):
    """Predicts for observations that belong to no bed."""

    async def predict(self, case: Case | None, observations: Sequence[Observation]) -> Prediction:
        """One prediction. Raises ValueError where there is nothing to predict from."""


@dataclass(kw_only=True)
class Services:
    """Everything a request may need."""

    view: LatestView
    broadcaster: Broadcaster
    store: Store
    metrics: Metrics
    publish: PublishAck
    health: Callable[[], Mapping[str, Health]]
    card: Callable[[], dict[str, Any]]
    adhoc: Adhoc | None = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


def services(request: Request) -> Services:
    """The services of the application that a request came to."""
    found: Services = request.app.state.services
    return found


async def ask(work: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Ask the database in a thread; 503 while it is gone."""
    from app.ward.database import DatabaseGone, NotMigrated

    try:
        return await asyncio.to_thread(work, *given, **named)
    except DatabaseGone:
        raise Problem(503, "the database does not answer", {"retry-after": "5"}) from None
    except NotMigrated:
        raise Problem(503, "the database is not migrated") from None
