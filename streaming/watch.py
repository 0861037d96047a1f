"""Whether a consumer gets on: what is left to read, where it stands still, how late its loop is.

Knows partitions by any name; asks nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Final, Generic, TypeVar

PAUSE_S: Final = 2.0
"""Longest time between polls in which a standstill is held against the client."""
ENDS_EVERY_S: Final = 2.0
"""How often the partitions' ends are asked for."""
SILENT_S: Final = 10.0
"""Time without an answer after which the cluster counts as away."""
_LAGS_KEPT: Final = 120

P = TypeVar("P", bound=Hashable)


class Watch(Generic[P]):
    """What is known of the partitions of one consumer.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: dict[P, int] = {}
        self._marks: dict[P, tuple[int, float]] = {}
        """Where each partition was last seen to move to, and when."""
        self._ends_at = self._answered_at = -math.inf
        self._polled = -math.inf
        self._lags: deque[float] = deque(maxlen=_LAGS_KEPT)

    def begin(self) -> None:
        """A new assignment: nothing is known of any partition."""
        self._marks.clear()
        self._ends = {}
        self._answered_at = self._clock()

    def unknown(self) -> None:
        """The client is gone: the ends are not known any more."""
        self._ends = {}

    def polled(self) -> None:
        """The owner polls. A standstill before is held against the owner, not the client, where it
        did not for long.
        """
        now = self._clock()
        if now - self._polled > PAUSE_S:
            self._marks = {p: (offset, now) for p, (offset, _) in self._marks.items()}
        self._polled = now

    def moved(self, partition: P, offset: int) -> None:
        """A partition delivered, or begins anew, and goes on at an offset (-1: unknown)."""
        self._marks[partition] = (offset, self._clock())

    def ends(self, ends: Mapping[P, int], positions: Mapping[P, int | None]) -> None:
        """The ends were asked for; only the partitions that have a position here count."""
        self._ends_at = self._answered_at = now = self._clock()
        for partition, end in ends.items():
            if partition not in positions:
                continue
            self._ends[partition] = end
            position = positions[partition]
            if position is not None and (
                position >= end or self._marks.get(partition, (-1, 0.0))[0] != position
            ):
                self._marks[partition] = (position, now)

    @property
    def informed(self) -> bool:
        """Whether the ends are fresh: an unreachable cluster is no client's fault."""
        return self._clock() - self._ends_at < 3 * ENDS_EVERY_S

    @property
    def answered(self) -> bool:
        """Whether the cluster has answered lately."""
        return self._clock() - self._answered_at < SILENT_S

    def lag(self, positions: Mapping[P, int | None]) -> dict[P, int]:
        """Records between position and end, where both are known."""
        return {
            partition: max(0, self._ends[partition] - position)
            for partition, position in positions.items()
            if position is not None and partition in self._ends
        }

    def stuck(
        self, positions: Mapping[P, int | None], resumed: Collection[P], after_s: float
    ) -> frozenset[P]:
        """Resumed partitions that did not move for `after_s` though there is something to read."""
        now = self._clock()
        return frozenset(
            partition
            for partition in resumed
            if (end := self._ends.get(partition)) is not None
            and end > (positions.get(partition) or 0)
            and now - self._marks.get(partition, (0, now))[1] > after_s
        )

    def loop_was_late(self, late_s: float) -> None:
        """The event loop came back so much later than it was asked to."""
        self._lags.append(late_s)

    @property
    def loop_lag_s(self) -> float:
        """The longest that the loop was late lately."""
        return max(self._lags, default=0.0)
