"""The server over many rounds: opens, closes by the clock, moves the model, keeps all on disk.

What was accepted is on disk before its sender hears so: a killed server goes on in the same phase
of the same round. A round that too few finish is given up; the next one has a new number, for a
client takes part in each number once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from models.federated import files
from models.federated.errors import Early, Late, ProtocolError, Replay
from models.federated.messages import Answer, Message, Phase, Task, usual_threshold
from models.federated.server import Result, Round
from models.federated.strategy import Strategy

_KEPT: Final = "federation.msgpack"
_ROUND: Final = "round.msgpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a federation learns.

    Attributes:
        federation: Its name.
        rounds: Rounds that must succeed.
        bits: Bits of an entry on the wire.
        clip: Bound of an entry of an update.
        max_weight: Rows of a site that count, at most.
        threshold: Sites without whom nothing is revealed; 0: two thirds.
        gather_s: Time for the rest once a threshold of sites is there (they train meanwhile).
        phase_s: Time for each of the other phases.
        strategy: What is made of a mean update.
    """

    federation: str = "vitalstream"
    rounds: int = 20
    bits: Literal[24, 32] = 32
    clip: float = 1.0
    max_weight: int = 100_000
    threshold: int = 0
    gather_s: float = 600.0
    phase_s: float = 60.0
    strategy: Strategy = field(default_factory=Strategy)


class Past(msgspec.Struct):
    """A round that is over: whose updates were summed, none where too few were left."""

    number: int
    clients: tuple[str, ...]
    weight: int
    failure: str = ""


class _Kept(msgspec.Struct):
    number: int
    succeeded: int
    model: bytes
    moments: list[bytes]
    past: list[Past]


class Hub:
    """The server's whole state; `now_s` is any clock that only grows.

    Args:
        folder: Where the state lies; one that is there goes on.
        roster: Identity keys by name.
        plan: How to learn.
        model: Start, float32 [parameters]; of no account where the folder has a state.

    Raises:
        ValueError: The folder's state is of a model of another size, or the plan is impossible.
    """

    def __init__(
        self,
        folder: Path,
        roster: Mapping[str, Ed25519PublicKey],
        plan: Plan,
        model: NDArray[np.float32],
        now_s: float,
    ) -> None:
        self.plan, self.roster, self._folder = plan, dict(roster), folder
        self._since_s = now_s
        self._model = model.astype("<f4")
        self._moments = plan.strategy.start(len(model))
        self._kept = _Kept(1, 0, self._model.tobytes(), [m.tobytes() for m in self._moments], [])
        self.round: Round | None = None
        if (folder / _KEPT).exists():
            self._kept = msgspec.msgpack.decode((folder / _KEPT).read_bytes(), type=_Kept)
            if len(self._kept.model) != 4 * len(model):
                raise ValueError(f"{folder}: the state is of a model of another size")
            self._model = np.frombuffer(self._kept.model, "<f4").copy()
            if len(self._kept.moments) != len(self._moments):
                raise ValueError(f"{folder}: the state is of another strategy")
            self._moments = [np.frombuffer(m, "<f8").copy() for m in self._kept.moments]
        self._digest = hashlib.sha256(self._kept.model).digest()
        if (folder / _ROUND).exists():
            found = Round.restore((folder / _ROUND).read_bytes(), self.roster)
            if found.state.task == self._task():
                self.round = found
        if self.round is None:
            self._open(now_s)

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self._kept.succeeded >= self.plan.rounds

    @property
    def model(self) -> NDArray[np.float32]:
        """The model as it is, float32 [parameters]."""
        return self._model

    @property
    def past(self) -> list[Past]:
        """Rounds that are over."""
        return self._kept.past

    def offer(self, client: str) -> Task | None:
        """The round that a client can take part in now."""
        found = self.round
        if found is None or found.phase != "advertise" or client in found.heard:
            return None
        return found.state.task

    def model_bytes(self, number: int) -> bytes:
        """The model that a round is of, float32 little-endian. Raises Replay for another round."""
        self._running(number)
        return self._kept.model

    def receive(self, client: str, number: int, message: Message, now_s: float) -> None:
        """Take a client's message and keep it. Raises ProtocolError."""
        found = self._running(number)
        if message.context != found.context:
            raise Replay("a message of another round")
        found.receive(client, message)
        if found.phase == "advertise" and len(found.heard) == found.state.task.threshold:
            self._since_s = now_s
        files.replace(self._folder / _ROUND, found.snapshot())
        self.tick(now_s)

    def answer(self, client: str, number: int, phase: Phase) -> Answer | None:
        """What a client is told after `phase`; None while it is not over. Raises ProtocolError."""
        try:
            return self._running(number).answer(client, phase)
        except Early:
            return None

    def tick(self, now_s: float) -> bool:
        """Close the phase if it is time; whether it was."""
        found = self.round
        if found is None or not self._due(found, now_s):
            return False
        try:
            result = found.close()
        except ProtocolError as error:
            task = found.state.task
            self._kept.past.append(Past(task.number, (), 0, f"{found.phase}: {error.code}"))
            self._next(now_s)
            return True
        self._since_s = now_s
        if result is None:
            files.replace(self._folder / _ROUND, found.snapshot())
        else:
            self._learn(found.state.task, result)
            self._next(now_s)
        return True

    def status(self) -> dict[str, Any]:
        """The state in words and numbers; nothing of any client's."""
        found = self.round
        return {
            "federation": self.plan.federation,
            "finished": self.finished,
            "succeeded": self._kept.succeeded,
            "rounds": self.plan.rounds,
            "number": self._kept.number,
            "phase": None if found is None else found.phase,
            "heard": 0 if found is None else len(found.heard),
            "expected": 0 if found is None else len(found.expected),
            "past": [msgspec.to_builtins(past) for past in self._kept.past[-5:]],
        }

    def _due(self, found: Round, now_s: float) -> bool:
        heard = len(found.heard)
        if heard == len(found.expected):
            return True
        waited_s = now_s - self._since_s
        if found.phase == "advertise":
            return heard >= found.state.task.threshold and waited_s >= self.plan.gather_s
        return waited_s >= self.plan.phase_s

    def _running(self, number: int) -> Round:
        if self.round is None:
            raise Late("the federation has finished")
        if self.round.state.task.number != number:
            raise Replay(f"round {number} is not the one that runs")
        return self.round

    def _learn(self, task: Task, result: Result) -> None:
        update = result.total * (task.max_weight / result.weight)
        self._model, self._moments = self.plan.strategy.step(self._model, update, self._moments)
        self._kept.model = self._model.astype("<f4").tobytes()
        self._kept.moments = [moment.tobytes() for moment in self._moments]
        self._kept.succeeded += 1
        self._kept.past.append(Past(task.number, result.clients, result.weight))
        self._digest = hashlib.sha256(self._kept.model).digest()

    def _next(self, now_s: float) -> None:
        self._kept.number += 1
        self.round = None
        self._open(now_s)

    def _open(self, now_s: float) -> None:
        """Keep what is, and open the next round, if there is one."""
        files.replace(self._folder / _KEPT, msgspec.msgpack.encode(self._kept))
        (self._folder / _ROUND).unlink(missing_ok=True)
        self._since_s = now_s
        if not self.finished:
            self.round = Round(self._task(), self.roster)

    def _task(self) -> Task:
        plan = self.plan
        return Task(
            federation=plan.federation,
            number=self._kept.number,
            size=len(self._model) + 1,
            bits=plan.bits,
            clip=plan.clip,
            max_weight=plan.max_weight,
            threshold=plan.threshold or usual_threshold(len(self.roster)),
            clients=tuple(sorted(self.roster)),
            model=self._digest,
        )
