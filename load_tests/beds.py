"""From a monitor's reading to the live stream and to REST, at N beds × 1 Hz, all roles on this
machine.

    python load_tests/beds.py --beds 1000 --seconds 300

Starts a real Kafka, a worker, the ward, an api and the simulated monitors, each a process of its
own,
reads the live stream as one client and says how long after its event time each prediction was seen
there, and how long after that it could be read over REST. The simulator sends a reading up to 5 ms
after
its event time: that is counted as ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from live import TOKEN, Product, machine

_EVENT = re.compile(rb'"bed_id":"([^"]+)".*?"ts_ms":(\d+).*?"offset":(\d+)', re.DOTALL)


@dataclass
class Seen:
    """What the stream's reader saw, and when."""

    stream_ms: list[float] = field(default_factory=list)
    rest_ms: list[float] = field(default_factory=list)
    beds: set[bytes] = field(default_factory=set)
    measuring: bool = False


async def read_stream(port: int, seen: Seen, samples: asyncio.Queue[tuple[bytes, int]]) -> None:
    """Read every prediction of the live stream, for ever."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
        b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    )
    rest = b""
    while data := await reader.read(1 << 20):
        now_ms = time.time() * 1_000
        *blocks, rest = (rest + data).split(b"\n\n")
        for block in blocks:
            if b"event: prediction" not in block:
                continue
            found = _EVENT.search(block)
            if found is None:
                continue
            seen.beds.add(found[1])
            if seen.measuring:
                seen.stream_ms.append(now_ms - int(found[2]))
                if samples.empty():
                    samples.put_nowait((found[1], int(found[2])))
    raise SystemExit("the stream ended")


async def read_rest(port: int, seen: Seen, samples: asyncio.Queue[tuple[bytes, int]]) -> None:
    """Ask REST for a bed that was just seen, about ten times a second."""
    while True:
        bed, ts_ms = await samples.get()
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"GET /v1/beds/" + bed + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
            )
            answer = await reader.read()
            writer.close()
            found = re.search(rb'"prediction":\{.*?"ts_ms":(\d+)', answer, re.DOTALL)
            if found is not None and int(found[1]) >= ts_ms:
                seen.rest_ms.append(time.time() * 1_000 - ts_ms)
                break
        await asyncio.sleep(0.1)
        while not samples.empty():
            samples.get_nowait()


def figures(values: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    if not values:
        return {"count": 0}
    array = np.array(values)
    return {
        "count": len(array),
        **{f"p{q:g}": round(float(np.percentile(array, q)), 1) for q in (50, 95, 99, 99.9)},
        "max": round(float(array.max()), 1),
    }


def counters(text: str, name: str, label: str = "") -> float:
    """Sum of a metric's series whose labels contain some text."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(name) and label in line
    )


async def measure(product: Product, options: argparse.Namespace) -> dict[str, object]:
    """Let everything run, settle, then measure."""
    seen, samples = Seen(), asyncio.Queue[tuple[bytes, int]]()
    reading = [
        asyncio.create_task(read_stream(product.port, seen, samples)),
        asyncio.create_task(read_rest(product.port, seen, samples)),
    ]
    end = time.monotonic() + 120
    while len(seen.beds) < options.beds:
        if time.monotonic() > end or any(task.done() for task in reading):
            raise SystemExit(f"only {len(seen.beds)} beds seen\n{product.log('worker1')}")
        await asyncio.sleep(0.5)
    await asyncio.sleep(options.settle)

    def worker_metrics() -> str:
        return "\n".join(product_metrics(port) for port in options.ops_ports)

    before, cpu_before = await asyncio.to_thread(worker_metrics), product.cpu()
    seen.measuring = True
    await asyncio.sleep(options.seconds)
    seen.measuring = False
    after, cpu_after = await asyncio.to_thread(worker_metrics), product.cpu()
    for task in reading:
        task.cancel()

    def grown(name: str, label: str = "") -> int:
        return round(counters(after, name, label) - counters(before, name, label))

    def taken(text: str) -> float:
        lines = (line for line in text.splitlines() if 'topic="icu.vitals"' in line)
        return counters("\n".join(lines), "vitalstream_messages_total", 'outcome="accepted"')

    accepted = round(taken(after) - taken(before))
    return {
        **machine(),
        "beds": options.beds,
        "seconds": options.seconds,
        "workers": options.workers,
        "database": options.database,
        "event_time_to_stream_ms": figures(seen.stream_ms),
        "event_time_to_rest_ms": figures(seen.rest_ms),
        "observations": accepted,
        "predictions": grown("vitalstream_predictions_total"),
        "superseded": grown("vitalstream_skipped_total", 'reason="superseded"'),
        "cpu_share": {
            name: round((cpu_after[name] - cpu_before[name]) / options.seconds, 3)
            for name in cpu_after
        },
    }


def product_metrics(port: int) -> str:
    """Prometheus text of a process's operations server."""
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beds", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--settle", type=int, default=15, help="seconds before measuring")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--worker-args", default="", help="more options of the worker")
    options = parser.parse_args()
    import live

    options.ops_ports = live.kafka_server.free_ports(options.workers)
    with Product(options.database) as product:
        product.start("api", "api", "--port", str(product.port))
        product.start("ward", "ward")
        for number, port in enumerate(options.ops_ports, 1):
            arguments = ["worker", "--ops-port", str(port), *options.worker_args.split()]
            product.start(f"worker{number}", *arguments)
        product.until("the api lives", "/v1/beds")
        product.start(
            "simulate",
            "simulate",
            "--beds",
            str(options.beds),
            "--history-h",
            "0",
            "--artefacts",
            "0",
        )
        print(json.dumps(asyncio.run(measure(product, options)), indent=1))


if __name__ == "__main__":
    main()
