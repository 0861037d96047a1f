"""Many open pages on a busy ward: what a clinician's request takes meanwhile.

    python load_tests/clients.py --beds 1000 --pages 50 --seconds 60

Every page reads the live stream conflated to a second, as the web page does, and asks for a bed,
its trends and the alerts now and then. Says the API's latency by route, as the clients saw it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from beds import figures
from live import TOKEN, Product, machine

ROUTES = {
    "GET /v1/beds/{bed_id}": lambda bed: f"/v1/beds/{bed}",
    "GET /v1/beds/{bed_id}/trends": lambda bed: (
        f"/v1/beds/{bed}/trends?signals=hr,map,spo2&step_s=60"
    ),
    "GET /v1/alerts": lambda bed: "/v1/alerts",
    "GET /v1/beds": lambda bed: "/v1/beds",
}
WEIGHTS = (6, 2, 2, 1)


def _request(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n"
    ).encode()


async def page(port: int, read: list[int]) -> None:
    """One open page's stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(_request("/v1/stream?every_ms=1000"))
    while data := await reader.read(1 << 20):
        read[0] += len(data)
    raise SystemExit("a stream ended")


async def ask(
    port: int, beds: list[str], every_s: float, took: dict[str, list[float]], seed: int
) -> None:
    """One clinician's requests, at random moments."""
    rng = random.Random(seed)
    while True:
        await asyncio.sleep(rng.expovariate(1 / every_s))
        route = rng.choices(list(ROUTES), WEIGHTS)[0]
        begun = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        writer.write(_request(ROUTES[route](rng.choice(beds))))
        answer = await reader.read()
        while not reader.at_eof():
            answer += await reader.read()
        writer.close()
        took[route if answer[9:12] == b"200" else f"{route} failed"].append(
            (time.perf_counter() - begun) * 1_000
        )


async def measure(product: Product, options: argparse.Namespace) -> dict[str, object]:
    """Open the pages, let the ward settle, count for the seconds asked."""
    end = time.monotonic() + 120
    beds: list[str] = []
    while len(beds) < options.beds:
        if time.monotonic() > end:
            raise SystemExit(f"only {len(beds)} beds are predicted\n{product.log('worker')}")
        await asyncio.sleep(1)
        answer = json.loads(await asyncio.to_thread(product.get, "/v1/beds"))
        beds = [bed["bed_id"] for bed in answer["beds"] if bed["prediction"]]
    read, took = [0], defaultdict[str, list[float]](list)
    tasks = [asyncio.create_task(page(product.port, read)) for _ in range(options.pages)]
    await asyncio.sleep(options.settle)
    before, read[0] = product.cpu(), 0
    tasks += [
        asyncio.create_task(ask(product.port, beds, options.every, took, number))
        for number in range(options.pages)
    ]
    await asyncio.sleep(options.seconds)
    if failed := [task for task in tasks if task.done()]:
        raise SystemExit(f"{len(failed)} clients failed: {failed[0].exception()}")
    after = product.cpu()
    for task in tasks:
        task.cancel()
    return {
        **machine(),
        "beds": options.beds,
        "pages": options.pages,
        "seconds": options.seconds,
        "stream_mb_per_s": round(read[0] / options.seconds / 1e6, 1),
        "latency_ms": {route: figures(took[route]) for route in sorted(took)},
        "cpu_share": {n: round((after[n] - before[n]) / options.seconds, 3) for n in after},
    }


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beds", type=int, default=1_000)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--settle", type=int, default=10, help="seconds before measuring")
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between a page's requests"
    )
    options = parser.parse_args()
    with Product() as product:
        product.start("api", "api", "--port", str(product.port))
        product.start("ward", "ward")
        product.start("worker", "worker")
        product.until("the api lives", "/v1/beds")
        product.start("simulate", "simulate", "--beds", str(options.beds), "--history-h", "0")
        print(json.dumps(asyncio.run(measure(product, options)), indent=1))


if __name__ == "__main__":
    main()
