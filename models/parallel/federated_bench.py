"""One hospital's share of a secure sum, beside a plain sum of all the hospitals'."""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.federated.client import Client
from models.federated.messages import Task, usual_threshold
from models.federated.server import Round
from models.parallel.measured import Row

SIZE: Final = 1_000_000
CLIENTS: Final = 10
REPEATS: Final = 3


def measure() -> list[Row]:
    """CPU time of a client for a million parameters and ten clients; in this process alone."""
    values = np.random.default_rng(0).normal(0, 0.1, SIZE - 1).astype(np.float32)
    ours, plain, sent, error = [], [], 0, 0.0
    for number in range(REPEATS):
        took, sent, mean = _round(values, number + 1)
        ours.append(took)
        start = time.process_time()
        total = sum(values.astype(np.float64) for _ in range(CLIENTS))
        plain.append((time.process_time() - start) * 1e3)
        error = max(error, float(np.abs(mean - total / CLIENTS).max()))
    return [
        Row(
            system="secure sum",
            case=f"{SIZE} parameters, {CLIENTS} clients, 32 bits",
            reference_error=error,
            bytes=sent,
            time_ms=median(ours),
            beside="plain sum of all in float64",
            beside_ms=median(plain),
            ratio=median(ours) / median(plain),
            note=f"CPU time and bytes of one client, all phases; {sent / SIZE:.3f} bytes a "
            "parameter; error: half a step of the fixed point",
        )
    ]


def _round(values: np.ndarray[Any, Any], number: int) -> tuple[float, int, np.ndarray[Any, Any]]:
    """One whole round: CPU ms and bytes of one client, and the mean that the server learns."""
    identities = {f"site-{i:03d}": Ed25519PrivateKey.generate() for i in range(CLIENTS)}
    roster = {name: key.public_key() for name, key in identities.items()}
    task = Task(
        federation="bench",
        number=number,
        size=SIZE,
        bits=32,
        clip=1.0,
        max_weight=1000,
        threshold=usual_threshold(CLIENTS),
        clients=tuple(sorted(roster)),
        model=bytes(32),
    )
    clients = {name: Client(name, key, roster, task) for name, key in identities.items()}
    round_ = Round(task, roster)
    last, own, sent, result = None, 0.0, 0, None
    while round_.phase != "done":
        phase = round_.phase
        for name, client in clients.items():
            told: Any = None if last is None else round_.answer(name, last)
            start = time.process_time()
            if phase == "advertise":
                said: Any = client.advertise()
            elif phase == "mask":
                said = client.mask(told, values, 1)
            else:
                said = getattr(client, phase)(told)
            if name == "site-000":
                own += (time.process_time() - start) * 1e3
                sent += len(msgspec.msgpack.encode(said))
            round_.receive(name, said)
        result, last = round_.close(), phase
    assert result is not None
    return own, sent, result.total / CLIENTS
