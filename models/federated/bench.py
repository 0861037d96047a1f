"""What one hospital's part in a secure sum costs, beside the plain sum of all the hospitals'.

All clients run in this process; the CPU time of the first one is taken, over all five phases.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.federated.client import Client
from models.federated.fixed_point import Bits
from models.federated.messages import Recipe, Task, usual_threshold
from models.federated.server import Round
from models.parallel.measured import Row

SIZE: Final = 1_000_000
CLIENTS: Final = 10
REPEATS: Final = 5
_SCALE: Final = 0.1
"""Standard deviation of the entries that are summed."""


@dataclass(slots=True)
class Cost:
    """Some rounds of the same kind.

    Attributes:
        spent_ms: CPU time by what it was spent on, each time.
        sent_bytes: Of one client in a round.
        error: Largest difference of the mean to that of the plain sum.
    """

    spent_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sent_bytes: int = 0
    error: float = 0.0


def measure() -> list[Row]:
    """A million parameters and ten clients: in 31, 32 and 24 bits, a quarter of them, private."""
    found = []
    for name, size, bits, recipe in (
        ("31 bits", SIZE, 31, Recipe()),
        ("32 bits", SIZE, 32, Recipe()),
        ("24 bits", SIZE, 24, Recipe()),
        ("31 bits, a quarter of them", SIZE // 4, 31, Recipe()),
        ("31 bits, private", SIZE, 31, Recipe(norm=1.0, noise=1.0)),
    ):
        cost = rounds(size, CLIENTS, bits, REPEATS, recipe)  # type: ignore[arg-type]
        own, plain = (median(cost.spent_ms[what]) for what in ("client", "plain sum"))
        least = min(cost.spent_ms["client"])
        found.append(
            Row(
                system="secure sum",
                case=f"{SIZE} parameters, {CLIENTS} clients, {name}",
                reference_error=None if recipe.noise else cost.error,
                bytes=cost.sent_bytes,
                time_ms=own,
                beside="float64 sum of all updates",
                beside_ms=plain,
                ratio=plain / own,
                note=f"CPU time of a client, {least:.1f} ms at best; "
                f"{cost.sent_bytes / SIZE:.3f} bytes a parameter",
            )
        )
    return found


def rounds(size: int, clients: int, bits: Bits, repeats: int, recipe: Recipe | None = None) -> Cost:
    """Whole rounds, one after the other.

    Args:
        size: Parameters.
        clients: Of the sum.
        bits: Of an entry on the wire.
        repeats: Rounds.
        recipe: Of the rounds: with noise, or none.
    """
    keys = {f"site-{i:03d}": Ed25519PrivateKey.generate() for i in range(clients)}
    values = np.random.default_rng(0).normal(0, _SCALE, size).astype(np.float32)
    cost = Cost()
    for number in range(1, repeats + 1):
        task = Task(
            federation="bench",
            number=number,
            size=size + 1,
            bits=bits,
            clip=1.0,
            max_weight=1000,
            threshold=usual_threshold(clients),
            clients=tuple(sorted(keys)),
            model=bytes(32),
            recipe=recipe or Recipe(),
        )
        start = time.process_time()
        plain = sum(values.astype(np.float64) for _ in keys)
        cost.spent_ms["plain sum"].append((time.process_time() - start) * 1e3)
        mean = _round(task, keys, values, cost) / clients
        cost.error = max(cost.error, float(np.abs(mean - plain / clients).max()))
    return cost


def _round(task: Task, keys: Mapping[str, Ed25519PrivateKey], values: Any, cost: Cost) -> Any:
    """The sum of a round; what it cost is added."""
    roster = {name: key.public_key() for name, key in keys.items()}
    clients = {name: Client(name, key, roster, task) for name, key in keys.items()}
    round_, result, own, sent, first = Round(task, roster), None, 0.0, 0, min(keys)
    before = None
    while round_.phase != "done":
        phase = round_.phase
        for name, client in clients.items():
            given = () if before is None else (round_.answer(name, before),)
            more = (values, 5) if phase == "mask" else ()
            start = time.process_time()
            said = getattr(client, phase)(*given, *more)
            took = (time.process_time() - start) * 1e3
            if name == first:
                cost.spent_ms[phase].append(took)
                own += took
                sent += len(msgspec.msgpack.encode(said))
            start = time.process_time()
            round_.receive(name, said)
            if phase == "mask":
                cost.spent_ms["server receives"].append((time.process_time() - start) * 1e3)
        start = time.process_time()
        result = round_.close()
        if phase == "unmask":
            cost.spent_ms["server unmasks"].append((time.process_time() - start) * 1e3)
        before = phase
    cost.spent_ms["client"].append(own)
    cost.sent_bytes = sent
    assert result is not None
    return result.total
