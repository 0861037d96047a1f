"""How long a worker with many beds of history takes from its start to ready.

    python load_tests/restart.py --kafka 127.0.0.1:9092 --beds 1000 --minutes 10

Publishes history, lets a worker predict it and leave (with its snapshots), publishes a tail, kills
a second worker in the middle of it, and measures the third from the start of its process to
`/health/ready`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos import Publisher, Worker, create_topics


def measure(servers: str, beds: int, minutes: int, command: tuple[str, ...], folder: Path) -> float:
    """Seconds from the start of the process to ready."""
    create_topics(servers, 12)
    publisher = Publisher(servers, beds)

    def worker(name: str) -> Worker:
        return Worker(servers, folder / f"{name}.log", command, session_timeout_ms=6_000)

    publisher.publish(beds * minutes, 20_000, lambda share: None)
    publisher.flush()
    first = worker("first")
    first.ready(300)
    first.stop()
    publisher.publish(beds * 2, 20_000, lambda share: None)
    publisher.flush()
    second = worker("second")
    second.ready(300)
    publisher.publish(beds * 2, 5_000, lambda share: None)
    second.kill()
    publisher.flush()
    time.sleep(
        7
    )  # The group forgets the dead member: that wait is the session timeout's, not ours.
    begun = time.monotonic()
    third = worker("third")
    third.ready(300)
    seconds = time.monotonic() - begun
    third.stop()
    return seconds


def main() -> None:
    """Measure against a Kafka whose topics are empty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kafka", required=True, help="HOST:PORT of a real broker, topics empty")
    parser.add_argument("--beds", type=int, default=1_000)
    parser.add_argument("--minutes", type=int, default=10, help="observations of each bed before")
    options = parser.parse_args()
    command = (sys.executable, "-m", "app.cli", "worker")
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(options.kafka, options.beds, options.minutes, command, Path(folder))
    print(f"start to ready with {options.beds} beds of history: {seconds:.1f} s")


if __name__ == "__main__":
    main()
