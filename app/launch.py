"""Starting roles: signals are heard from the first moment, what is heavy is imported meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.lifecycle import Role
    from app.metrics import Metrics
    from app.settings import Settings


def role(module: str, name: str, *given: Any, **named: Any) -> Role:
    """A role that is imported, in a thread, when it starts: signals are heard meanwhile."""
    from app.roles.late import Late

    def make() -> Role:
        made: Role = getattr(import_module(f"app.roles.{module}"), name)(*given, **named)
        return made

    return Late(module, make, lambda: import_module(f"app.roles.{module}"))


def watched(settings: Settings, metrics: Metrics, subject: Role) -> Sequence[Role]:
    """A role, and before it the server of its metrics and health."""
    from app.roles.ops import Operations

    metrics.watch(subject.health)
    return [Operations(settings, metrics.page, subject.health), subject]


def serve(make: Callable[[Metrics], Sequence[Role]]) -> None:
    """Run roles until they end or a signal comes; leaves the process."""
    import uvloop

    from app import lifecycle
    from app.metrics import Metrics

    async def main() -> None:
        await lifecycle.serve(make(Metrics()))
        # Everything is closed. Left from inside the loop, whose handlers still hear signals: a
        # second ctrl-C changes nothing, and no thread that imports something is waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    signal.signal(signal.SIGTERM, _nothing_started)
    signal.signal(signal.SIGINT, _nothing_started)
    uvloop.run(main())


def wait(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns."""
    return asyncio.run(work)


def _nothing_started(*_: object) -> None:
    os._exit(0)
