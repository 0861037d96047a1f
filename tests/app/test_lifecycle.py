"""Starting and stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from app.lifecycle import Deadline, Health, serve
from app.roles.late import Together


class Part:
    """A role that writes down what is asked of it."""

    def __init__(
        self, name: str, log: list[str], start: Exception | None = None, ends: bool = False
    ) -> None:
        self.name = name
        self._log = log
        self._start = start
        self._ends = ends

    async def start(self) -> None:
        """Start, or fail."""
        self._log.append(f"start {self.name}")
        if self._start is not None:
            raise self._start

    async def wait(self) -> None:
        """End at once, or never."""
        if not self._ends:
            await asyncio.Event().wait()

    async def drain(self, deadline: Deadline) -> None:
        """Drain."""
        self._log.append(f"drain {self.name}")

    def health(self) -> Mapping[str, Health]:
        """Well."""
        return {"part": Health(True)}


async def test_roles_drain_in_reverse() -> None:
    """What was started last stops first."""
    log: list[str] = []
    stop = asyncio.Event()
    stop.set()
    await serve([Part("a", log, ends=True), Part("b", log, ends=True)], asyncio.Event())

    assert log == ["start a", "start b", "drain b", "drain a"]


async def test_a_failed_start_drains_what_was_begun_and_is_told() -> None:
    """Also the role that failed: it may have opened something."""
    log: list[str] = []
    with pytest.raises(ValueError, match="no"):
        await serve([Part("a", log), Part("b", log, ValueError("no")), Part("c", log)])

    assert log == ["start a", "start b", "drain b", "drain a"]


async def test_a_stop_during_the_start_is_heard() -> None:
    """A role that takes its time to start does not hold up ctrl-C."""
    log: list[str] = []
    stop = asyncio.Event()

    class Slow(Part):
        async def start(self) -> None:
            stop.set()
            await asyncio.Event().wait()

    await asyncio.wait_for(serve([Part("a", log), Slow("b", log)], stop), 5)

    assert log == ["start a", "drain b", "drain a"]


async def test_a_drain_that_hangs_is_left_behind() -> None:
    """The budget is one for all, and the others still drain."""
    now = 0.0
    deadline = Deadline(9.0, lambda: now)
    now = 8.0
    assert deadline.left_s == 1.0
    now = 10.0
    assert deadline.left_s == 0.0


async def test_together_fails_with_the_first_and_names_its_parts() -> None:
    """Side by side, but one role to the outside."""
    log: list[str] = []
    both = Together([Part("a", log), Part("b", log, ValueError("no"))])
    with pytest.raises(ValueError, match="no"):
        await both.start()

    assert set(both.health()) == {"a part", "b part"}
    await both.drain(Deadline(1))
    assert log[-2:] == ["drain a", "drain b"]
