"""What a worker knows of one partition it owns: what is under way for its beds, and how far it is
done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from streaming.beds import Bed
from streaming.messages import Case
from streaming.observations import Observations
from streaming.progress import Progress
from streaming.snapshots import Keep, needed, stagger_s


class Ticket(NamedTuple):
    """A prediction under way: from which bed's which newest message, as the bed was then."""

    account: Account
    offset: int
    covers: list[int]
    """Offsets that are done when it is acknowledged: what the window held and no one before."""
    case_id: str | None
    ts_ms: int
    broker_ms: int
    bed: Bed


class Account:
    """One bed's messages: those that no prediction was begun from, in its window or not."""

    __slots__ = (
        "bed_id",
        "broker_ms",
        "cases",
        "keep",
        "key",
        "open",
        "partition",
        "queue",
        "scored_s",
        "under_way",
        "waits",
    )

    def __init__(self, bed_id: str, partition: Partition, keep: Keep) -> None:
        self.bed_id = bed_id
        self.key = bed_id.encode()
        self.partition = partition
        self.keep = keep
        self.broker_ms = -1
        """The broker's time of the newest message in the window."""
        self.open: list[int] = []
        """Offsets in the window that no prediction was begun from, ascending."""
        self.under_way = 0
        """Predictions that were begun and not acknowledged."""
        self.queue: deque[tuple[Observations, int]] = deque()
        """Messages not in the window yet (`emit=each`), as rows of what they were decoded with."""
        self.cases: list[tuple[Case | None, int]] = []
        """Changes of the case that wait until the window was gathered (`emit=each`)."""
        self.scored_s = float("-inf")
        """When the window was gathered last."""
        self.waits = False
        """Whether a timer will offer the bed (`min_rescore_ms`)."""

    def accept(self, offset: int, broker_ms: int) -> None:
        """A message is in the window."""
        self.broker_ms = broker_ms
        self.open.append(offset)
        if self.keep.since < 0:
            self.keep.since = offset

    def gather(self, now_s: float) -> list[int]:
        """The window is copied: the offsets that its prediction covers."""
        self.scored_s = now_s
        self.under_way += 1
        covered, self.open = self.open, []
        return covered

    @property
    def due(self) -> bool:
        """Whether something in the window has no acknowledged prediction."""
        return bool(self.open) or self.under_way > 0

    @property
    def busy(self) -> bool:
        """Whether anything is left to do for the bed."""
        return self.due or self.waits or bool(self.queue or self.cases) or self.keep.waiting >= 0


class Partition:
    """One partition in one epoch. `alive` ends with it: whatever comes later for it is ignored."""

    def __init__(self, number: int, epoch: int, snapshot_every_s: float) -> None:
        self.number = number
        self.epoch = epoch
        self.alive = True
        self.restored = False
        self.progress = Progress(0)
        self.committed = (0, 0)
        """Offset and lowest needed offset of the last commit."""
        self.accounts: dict[str, Account] = {}
        self.captures: list[tuple[Account, int, bytes]] = []
        """Snapshots that wait for their offset to be committed."""
        self._every_s = snapshot_every_s

    def begin(self, committed: int) -> None:
        """Everything before this offset is done."""
        self.progress = Progress(committed)

    def account(self, bed_id: str, now_s: float) -> Account:
        """The account of a bed, new where there was none."""
        account = self.accounts.get(bed_id)
        if account is None:
            due_s = now_s + stagger_s(len(self.accounts), self._every_s)
            account = self.accounts[bed_id] = Account(bed_id, self, Keep(due_s))
        return account

    def finish(self, offsets: Iterable[int]) -> None:
        """Offsets need nothing more."""
        self.progress.finish(offsets)

    def drop_queued(self) -> None:
        """Forget the messages that are not in a window: the next owner reads them again."""
        for account in self.accounts.values():
            account.queue.clear()

    def needed(self, position: int) -> int:
        """Lowest offset that restoring the partition reads, if `position` is what is committed."""
        return needed(position, (account.keep for account in self.accounts.values()))
