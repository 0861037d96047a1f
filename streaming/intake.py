"""From records to windows that are due: decode, refuse what cannot be used, observe.

Done in bulk: no task, future or tensor of our own for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from streaming.codec import VitalsDecoder
from streaming.consumer import KafkaError, Record
from streaming.deadletter import DeadLetters
from streaming.observations import Observations
from streaming.options import Options
from streaming.partition import Partition
from streaming.refusals import TOO_MANY_BEDS, Rejected
from streaming.scoring import Scoring
from streaming.stays import Stays
from streaming.telemetry import Telemetry
from streaming.windows import Observed

log = structlog.get_logger(__name__)

AGAIN_S = 1.0


class Intake:
    """Takes the records of the partitions owned.

    Args:
        scoring: Where windows go that are due.
        stays: Hears of beds that were emptied.
        dead_letters: Where what cannot be used goes.
        options: How the stream behaves.
        telemetry: Hears of what was skipped.
        clock_ms: The wall clock.
    """

    def __init__(
        self,
        scoring: Scoring,
        stays: Stays,
        dead_letters: DeadLetters,
        options: Options,
        telemetry: Telemetry,
        clock_ms: Callable[[], int],
    ) -> None:
        self._scoring = scoring
        self._windows = scoring.windows
        self._stays = stays
        self._dead_letters = dead_letters
        self._each = options.each
        self._most_beds = options.max_beds
        self._telemetry = telemetry
        self._clock_ms = clock_ms
        self._decoder = VitalsDecoder(options.max_skew_ms, telemetry, clock_ms)
        self.rejected: asyncio.Queue[tuple[Partition, list[Rejected]]] = asyncio.Queue()
        """What waits for its dead letter."""

    def take(self, partition: Partition, records: Sequence[Record], now_s: float) -> None:
        """Take records of a partition in the order of their offsets, repeats among them."""
        begin = partition.progress.take
        fresh = [record for record in records if begin(record.offset)]
        observations, rejected = self._decoder.decode(fresh)
        rows: Sequence[int] | None = None
        if refused := self._windows.beyond(observations, partition.number, self._most_beds):
            rejected += self._refuse(observations, fresh, refused)
            rows = sorted(set(range(observations.n)).difference(refused))
        if rejected:
            self.rejected.put_nowait((partition, rejected))
        if not self._each:
            self._observe(partition, observations, rows, now_s)
            return
        for row in range(observations.n) if rows is None else rows:
            account = partition.account(observations.bed_ids[row], now_s)
            account.queue.append((observations, row))
            self._scoring.ready[account] = None
        self.advance(now_s)

    def advance(self, now_s: float) -> None:
        """`emit=each`: beds whose window was gathered take their next message, all in one go."""
        scoring = self._scoring
        while scoring.ready:
            ready, scoring.ready = scoring.ready, {}
            heads: dict[int, tuple[Partition, Observations, list[int]]] = {}
            for account in ready:
                if not account.partition.alive:
                    continue
                bed = self._windows.bed(account.partition.number, account.bed_id)
                if bed is not None and bed.waiting:
                    continue  # Neither a message nor a change of the case before it was gathered.
                if account.cases:
                    self._stays.late(account)
                if not account.queue:
                    continue
                observations, row = account.queue.popleft()
                key = id(observations)
                if key not in heads:
                    heads[key] = (account.partition, observations, [])
                heads[key][2].append(row)
            for partition, observations, rows in heads.values():
                rows.sort()
                observed = self._observe(partition, observations, rows, now_s)
                for row in observed.dropped:
                    scoring.ready[partition.accounts[observations.bed_ids[row]]] = None

    async def bury(self) -> None:
        """Dead letters, one batch after the other; their offsets are done when acknowledged.

        Raises:
            KafkaError: A letter that no retry will get through.
        """
        while True:
            partition, rejected = await self.rejected.get()
            while True:
                try:
                    await self._dead_letters.bury(rejected)
                    break
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    log.warning("dead letters sent again", error=repr(error))
                    await asyncio.sleep(AGAIN_S)
            if partition.alive:
                partition.finish([letter.record.offset for letter in rejected])

    def _observe(
        self,
        partition: Partition,
        observations: Observations,
        rows: Sequence[int] | None,
        now_s: float,
    ) -> Observed:
        """Messages go into their windows, which are due then; those that may not are done."""
        observed = self._windows.observe(
            observations, partition.number, self._clock_ms(), rows, self._each
        )
        offsets, broker_ms = observations.offsets, observations.broker_ms
        if observed.dropped:
            partition.finish(offsets[observed.dropped].tolist())
        for bed in observed.emptied:
            self._stays.emptied(partition, bed)
        for bed, offset, ms in zip(
            observed.beds,
            offsets[observed.rows].tolist(),
            broker_ms[observed.rows].tolist(),
            strict=True,
        ):
            partition.account(bed.bed_id, now_s).accept(offset, ms)
        for reason, count in observed.skipped.items():
            self._telemetry.skipped(reason, count)
        self._scoring.offer(partition, observed.beds, now_s)
        return observed

    def _refuse(
        self, observations: Observations, records: Sequence[Record], rows: Sequence[int]
    ) -> list[Rejected]:
        """Messages of beds for which there is no room go where they can be taken back from."""
        by_offset = {record.offset: record for record in records}
        offsets = observations.offsets[list(rows)].tolist()
        log.warning("no room for more beds", refused=len(rows), max_beds=self._most_beds)
        return [Rejected(by_offset[offset], TOO_MANY_BEDS, "") for offset in offsets]
