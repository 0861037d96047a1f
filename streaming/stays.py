"""Changes of the beds' cases: who comes, who leaves, and what that means for what is under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streaming.beds import Bed
from streaming.messages import WINDOWS, Case
from streaming.options import Options
from streaming.partition import Account, Partition
from streaming.publish import Outgoing, Publisher
from streaming.telemetry import SILENT, Telemetry
from streaming.windows import Windows

SOON_S = 1.0
"""When a bed is captured whose case was replaced: what the old case said is needed until then."""


class Stays:
    """Takes changes of cases to the windows.

    Args:
        windows: The beds.
        partitions: Those owned, by number.
        publisher: Sends the tombstones of snapshots.
        options: How the stream behaves.
        telemetry: Hears of what was lost with a case.
        clock: Seconds.
    """

    def __init__(
        self,
        windows: Windows,
        partitions: Mapping[int, Partition],
        publisher: Publisher,
        options: Options,
        telemetry: Telemetry = SILENT,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._windows = windows
        self._partitions = partitions
        self._publisher = publisher
        self._each = options.each
        self._telemetry = telemetry
        self._clock = clock

    def changed(self, number: int, bed_id: str, case: Case | None, ms: int) -> None:
        """Take a record of `icu.cases`; None: a tombstone.

        Under `emit=each` it waits until the window with the message before it was gathered.
        """
        partition = self._partitions.get(number)
        if partition is None:
            return
        bed = self._windows.bed(number, bed_id)
        if self._each and bed is not None and bed.waiting:
            partition.account(bed_id, self._clock()).cases.append((case, ms))
        else:
            self._take(partition, bed_id, case, ms)

    def late(self, account: Account) -> None:
        """The window was gathered: take the changes that waited for it."""
        changes, account.cases = account.cases, []
        for case, ms in changes:
            self._take(account.partition, account.bed_id, case, ms)

    def emptied(self, partition: Partition, bed: Bed) -> None:
        """A window was emptied by a new case: what was due of the old one and not begun is lost.

        What was begun will be published, and is done when that is acknowledged.
        """
        account = partition.accounts.get(bed.bed_id)
        if account is None:
            return
        # What the old case said is still needed, for its name, until a snapshot has it as earlier.
        account.keep.dropped()
        account.keep.due_s = min(account.keep.due_s, self._clock() + SOON_S)
        if not self._each and account.open:
            self._telemetry.skipped("case_ended", len(account.open))
            partition.finish(account.open)
            account.open = []

    def _take(self, partition: Partition, bed_id: str, case: Case | None, ms: int) -> None:
        if self._windows.bed(partition.number, bed_id) is not None:
            # A bed that was never heard of finds the record when it is.
            emptied = self._windows.case(bed_id, partition.number, case, ms)
            if emptied is not None:
                self.emptied(partition, emptied)
        if case is None or case.status == "closed":
            # The record of the case says what a restart has to know of it.
            if (account := partition.accounts.get(bed_id)) is not None:
                account.keep.emptied()
            self._publisher.put([Outgoing(WINDOWS, bed_id.encode(), None, None)])
