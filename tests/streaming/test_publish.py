"""What is sent is kept until it is acknowledged."""

import asyncio
from typing import Any

from streaming.consumer import KafkaError
from streaming.publish import Outgoing, Publisher


class Lost(KafkaError):  # type: ignore[misc]
    """A failure that a retry gets through."""

    retriable = True


class Line:
    """A producer whose acknowledgements the test gives."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, asyncio.Future[Any]]] = []
        self.room = asyncio.Semaphore(3)

    async def send(self, topic: str, key: bytes, value: bytes) -> asyncio.Future[Any]:
        """Take a message while there is room."""
        await self.room.acquire()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.sent.append((value, future))
        return future


async def turns() -> None:
    """Let the loop do what it has."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_failed_is_sent_again_in_order_before_what_was_not_sent() -> None:
    """Only the message that was being handed over when they failed goes before them."""
    line, heard = Line(), list[bytes]()
    producer: Any = line
    publisher = Publisher(producer, lambda done: heard.extend(m.value or b"" for m in done))
    task = asyncio.create_task(publisher.run())
    publisher.put([Outgoing("t", b"k", b"%d" % i, None) for i in range(4)])
    await turns()
    assert [value for value, _ in line.sent] == [b"0", b"1", b"2"]
    for _, future in line.sent:
        future.set_exception(Lost())
    publisher.put([Outgoing("t", b"k", b"4", None)])
    await turns()
    line.sent.clear()
    for _ in range(5):
        line.room.release()
    await turns()
    assert [value for value, _ in line.sent] == [b"3", b"0", b"1", b"2", b"4"]
    for _, future in line.sent:
        future.set_result(None)
    await asyncio.wait_for(publisher.drained(), 5)
    assert heard == [b"3", b"0", b"1", b"2", b"4"] and publisher.waiting == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
