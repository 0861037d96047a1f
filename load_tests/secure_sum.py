"""CPU time and bytes of one client in a secure sum, beside a plain sum in the same run.

python load_tests/secure_sum.py --size 1000000 --clients 10
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.federated.client import Client
from models.federated.messages import Task, usual_threshold
from models.federated.server import Round


def main() -> None:
    """Measure, and print a line a phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--bits", type=int, default=32, choices=(24, 32))
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    identities = {f"site-{i:03d}": Ed25519PrivateKey.generate() for i in range(given.clients)}
    roster = {name: key.public_key() for name, key in identities.items()}
    values = np.random.default_rng(0).normal(0, 0.1, given.size - 1).astype(np.float32)
    spent: dict[str, list[float]] = defaultdict(list)
    sent = 0
    for number in range(1, given.repeats + 1):
        task = Task(
            federation="measure",
            number=number,
            size=given.size,
            bits=given.bits,
            clip=1.0,
            max_weight=1000,
            threshold=usual_threshold(given.clients),
            clients=tuple(sorted(roster)),
            model=bytes(32),
        )
        clients = {n: Client(n, key, roster, task) for n, key in identities.items()}
        round_ = Round(task, roster)
        last, own, sent = None, 0.0, 0
        while round_.phase != "done":
            phase = round_.phase
            for name, client in clients.items():
                told = None if last is None else round_.answer(name, last)
                start = time.process_time()
                if phase == "advertise":
                    said = client.advertise()
                elif phase == "mask":
                    said = client.mask(told, values, 5)
                else:
                    said = getattr(client, phase)(told)
                took = (time.process_time() - start) * 1e3
                if name == "site-000":
                    spent[phase].append(took)
                    own += took
                    sent += len(msgspec.msgpack.encode(said))
                start = time.process_time()
                round_.receive(name, said)
                if name == "site-001" and phase == "mask":
                    spent["server receives"].append((time.process_time() - start) * 1e3)
            start = time.process_time()
            round_.close()
            if phase == "unmask":
                spent["server unmasks"].append((time.process_time() - start) * 1e3)
            last = phase
        spent["client, all"].append(own)
        total = np.zeros(given.size - 1, np.float32)
        start = time.process_time()
        total += values
        spent["plain: one float32 addition"].append((time.process_time() - start) * 1e3)
        start = time.process_time()
        plain = sum(values.astype(np.float64) for _ in range(given.clients))
        spent["plain: the whole float64 sum"].append((time.process_time() - start) * 1e3)
        assert np.isfinite(plain).all()
    print(
        f"{given.size} entries, {given.clients} clients, {given.bits} bits; CPU ms: least, median"
    )
    for what, times in spent.items():
        print(f"  {what:30s} {min(times):8.2f} {np.median(times):8.2f}")
    ratio = min(spent["client, all"]) / min(spent["plain: the whole float64 sum"])
    print(f"  client / plain sum of all      {ratio:8.2f}")
    print(f"  bytes sent per entry           {sent / given.size:8.4f}")


if __name__ == "__main__":
    main()
