"""A federation of a toy model, as processes.

`toy.py serve DIR ROUNDS:GATHER_S PORT` and `toy.py join DIR NAME PORT`.

Site number k moves the model half-way towards k + 1 and has k + 1 rows.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import structlog

from models.federated.certificates import read_roster
from models.federated.course import Course, Material, Plan
from models.federated.hub import Hub
from models.federated.messages import Recipe
from models.federated.outgoing import Contribution
from models.federated.service import Service
from models.federated.site import Site

SIZE = 50


class Towards:
    """A learner whose optimum is a constant."""

    def __init__(self, goal: int) -> None:
        self.goal = goal

    def answer(self, recipe: Recipe, material: Material, number: int) -> Contribution:
        """Half the way to the goal."""
        update = ((self.goal - material.parameters) / 2).astype(np.float32)
        return Contribution(update, np.array([self.goal], np.int64))


async def serve(folder: Path, rounds: int, gather_s: float, port: int) -> None:
    """Serve until all rounds are done and everyone could hear so."""
    plan = Plan(rounds=rounds, clip=20.0, max_weight=100, gather_s=gather_s, phase_s=2.0)
    roster = read_roster(folder / "certificates" / "roster.json")
    course = Course(plan, np.zeros(SIZE, np.float32))
    hub = Hub(folder / "hub", roster, course, time.monotonic())
    service = Service(hub, folder / "certificates", host="127.0.0.1", port=port)
    async with service.listening():
        print("port", service.port, flush=True)
        await service.finished()
        print("model", *hub.model[:3], flush=True)
        await asyncio.Event().wait()


def join(folder: Path, name: str, port: int) -> None:
    """Take part until the end."""
    learner = Towards(int(name.rpartition("-")[2]) + 1)
    site = Site(name, f"https://127.0.0.1:{port}", folder / "certificates", folder / name, learner)
    site.run()
    print("rounds", site.rounds, flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    command, at, what, port = sys.argv[1:]
    if command == "serve":
        rounds, gather_s = what.split(":")
        asyncio.run(serve(Path(at), int(rounds), float(gather_s), int(port)))
    else:
        join(Path(at), what, int(port))
