"""From windows that are due to predictions that are acknowledged: queue, devices, publisher.

Everything here runs on the event loop's thread; the network runs in the devices' threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import numpy as np

from streaming.assemble import Assembler, Subject
from streaming.batcher import Flush
from streaming.beds import Bed, Recorded
from streaming.messages import PREDICTIONS
from streaming.model import Model
from streaming.options import Options
from streaming.partition import Account, Partition, Ticket
from streaming.producer import Producer
from streaming.publish import Outgoing, Publisher
from streaming.shards import Done, Shard, Shards
from streaming.telemetry import Telemetry
from streaming.windows import Windows


class Scoring:
    """Predicts windows that are due.

    Args:
        models: One for each device.
        producer: The door to Kafka.
        options: How the stream behaves.
        urgent: Beds that go first.
        recorded: What `icu.cases` says of a bed (`Windows`).
        failed: Called with what stopped it: no device is left.
        telemetry: Hears of batches, waits and what was skipped.
        clock: Seconds.
        clock_ms: The wall clock.
    """

    def __init__(
        self,
        models: Sequence[Model],
        producer: Producer,
        options: Options,
        urgent: Collection[str],
        recorded: Callable[[int, str], Recorded | None],
        failed: Callable[[Exception], None],
        telemetry: Telemetry,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        self._spacing_s = options.min_rescore_ms / 1_000
        self._urgent = urgent
        self._telemetry = telemetry
        self._clock = clock
        self._clock_ms = clock_ms
        self._experts = models[0].experts
        self._assembler = Assembler(models[0])
        self.publisher = Publisher(producer, self.acknowledged, telemetry)
        self.shards = Shards(
            models,
            self._device_failed,
            failed,
            options.max_batch,
            options.max_wait_ms / 1_000,
            options.queue_limit,
            telemetry,
        )
        self.windows = Windows(self.shards.owner, models[0].grid_digest, recorded)
        self.partitions: dict[int, Partition] = {}
        """The partitions owned, by number."""
        self.ready: dict[Account, None] = {}
        """`emit=each`: beds whose window was gathered and may take their next message."""
        self.advance: Callable[[float], None] = lambda now_s: None
        """Gives the beds that are ready their next message."""
        self.draining = False
        self._at: dict[Shard, dict[int, tuple[Bed, Account]]] = {s: {} for s in self.shards.all}
        """Whose window a slot in a shard's queue is."""
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, partition: Partition, beds: Sequence[Bed], now_s: float) -> None:
        """Windows are due: they queue for their devices, or wait until the bed may speak again."""
        due, started = [], 0
        for bed in dict.fromkeys(beds):
            account = partition.accounts[bed.bed_id]
            if account.waits:
                continue
            wait_s = account.scored_s + self._spacing_s - now_s
            if wait_s > 0:
                account.waits = True
                started += 1
                asyncio.get_running_loop().call_later(wait_s, self._waited, account)
            else:
                self._at[bed.home][bed.slot] = (bed, account)  # type: ignore[index]
                due.append(bed)
        replaced = self.shards.offer(due, self._urgent.__contains__, now_s)
        if superseded := len(beds) - (len(due) - replaced) - started:
            self._telemetry.skipped("superseded", superseded)

    def pump(self) -> None:
        """Devices that have nothing to do, or whose queue is full or late, get a batch."""
        now_s = self._clock()
        busy = True
        while busy:
            busy = False
            for shard in tuple(self.shards.alive):
                while (flush := shard.take(now_s, self.draining)) is not None:
                    busy = True
                    self._submit(shard, flush, now_s)
            if self.ready:
                self.advance(now_s)
        self._set_timer(now_s)

    def acknowledged(self, messages: Sequence[Outgoing]) -> None:
        """Messages are safe: their offsets are done."""
        now_ms = self._clock_ms()
        waited = []
        for message in messages:
            ticket = message.ticket
            if isinstance(ticket, Ticket):
                account = ticket.account
                account.under_way -= 1
                if account.partition.alive:
                    account.partition.finish(ticket.covers)
                waited.append((now_ms - ticket.broker_ms) / 1_000)
            elif ticket is not None:
                ticket()
        self._telemetry.end_to_end(waited)

    def _waited(self, account: Account) -> None:
        """A bed may speak again."""
        account.waits = False
        partition = account.partition
        bed = self.windows.bed(partition.number, account.bed_id) if partition.alive else None
        if bed is not None and bed.slot >= 0 and account.open:
            self.offer(partition, [bed], self._clock())
            self.pump()

    def _submit(self, shard: Shard, flush: Flush, now_s: float) -> None:
        """Copy a batch's windows, with what they are as of now."""
        at = self._at[shard]
        newest = shard.store.newest_ms(np.array(flush.slots, np.int32)).tolist()
        tickets = []
        for slot, ts_ms in zip(flush.slots, newest, strict=True):
            bed, account = at[slot]
            covers = account.gather(now_s)
            tickets.append(
                Ticket(account, bed.source, covers, bed.case_id, ts_ms, account.broker_ms, bed)
            )
            if bed.waiting:
                bed.waiting = False
                self.ready[account] = None
        self.shards.submit(shard, flush, tickets, self._predicted)

    def _set_timer(self, now_s: float) -> None:
        """Look again when the oldest entry of a busy device has waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = [
            deadline
            for shard in self.shards.alive
            if len(shard.in_flight) == 1 and (deadline := shard.batcher.deadline_s) is not None
        ]
        if deadlines:
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, min(deadlines) - now_s), self.pump
            )

    def _device_failed(self, shard: Shard) -> None:
        """The beds of a device move, windows and all; those in its queue are due again."""
        now_s = self._clock()
        for bed in self.windows.move(shard):
            self.offer(self.partitions[bed.partition], [bed], now_s)
        self.pump()

    def _predicted(self, done: Done) -> None:
        """A batch came back from its device: publish it, and give the device the next one."""
        tickets: list[Ticket] = done.tag
        subjects = [
            Subject(t.account.bed_id, t.case_id, t.ts_ms, t.account.partition.number, t.offset)
            for t in tickets
        ]
        values = self._assembler.encode(subjects, done.predictions, self._clock_ms())
        self.publisher.put(
            [
                Outgoing(PREDICTIONS, ticket.account.key, value, ticket)
                for ticket, value in zip(tickets, values, strict=True)
                if ticket.account.partition.alive
            ]
        )
        for ticket, speaks in zip(tickets, done.predictions.speaks.tolist(), strict=True):
            ticket.bed.warming = not speaks
        share = done.predictions.share.mean(0).tolist()
        self._telemetry.expert_share(dict(zip(self._experts, share, strict=True)))
        self.pump()
