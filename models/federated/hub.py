"""The server over many rounds: opens, closes by the clock, moves the model, keeps all on disk.

What was accepted is on disk before its sender hears so: a killed server goes on in the same phase
of the same round. A round that too few finish is given up; the next one has a new number, for a
client takes part in each number once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from models.federated import files, privacy
from models.federated.course import Ask, Course
from models.federated.errors import Early, Late, ProtocolError, Replay
from models.federated.masks import PROTOCOL
from models.federated.messages import Answer, Message, Phase, Task, usual_threshold
from models.federated.server import Round

_KEPT: Final = "federation.msgpack"
_ROUND: Final = "round.msgpack"
_LIGHT: Final = "round-since.msgpack"


class Past(msgspec.Struct):
    """A round that is over: whose updates were summed, none where too few were left."""

    number: int
    clients: tuple[str, ...]
    weight: int
    failure: str = ""


class _Kept(msgspec.Struct):
    number: int
    course: bytes
    past: list[Past]


class Hub:
    """The server's whole state; `now_s` is any clock that only grows.

    Args:
        folder: Where the state lies; one that is there goes on.
        roster: Identity keys by name.
        course: What is asked and learnt, at its start.
        now_s: Now.

    Raises:
        ValueError: The folder's state is of a model of another size, of another strategy, or was
            counted by another plan or edition.
    """

    def __init__(
        self,
        folder: Path,
        roster: Mapping[str, Ed25519PublicKey],
        course: Course,
        now_s: float,
    ) -> None:
        self.course, self.plan = course, course.plan
        self.roster, self._folder = dict(roster), folder
        self._since_s = now_s
        self._kept = _Kept(1, course.state(), [])
        self.round: Round | None = None
        if (folder / _KEPT).exists():
            self._kept = msgspec.msgpack.decode((folder / _KEPT).read_bytes(), type=_Kept)
            try:
                course.restore(self._kept.course)
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error
        self._prepare()
        if (folder / _ROUND).exists():
            light = (folder / _LIGHT).read_bytes() if (folder / _LIGHT).exists() else None
            found = Round.restore((folder / _ROUND).read_bytes(), self.roster, light)
            if found.state.task == self._task and found.state.protocol == PROTOCOL:
                self.round = found
            elif found.state.task.number == self._kept.number and not self.finished:
                # Begun with other options or by another edition: who took part in this number
                # does so no more.
                self._kept.past.append(Past(self._kept.number, (), 0, "the task has changed"))
                self._kept.number += 1
        if self.round is None:
            self._open(now_s)

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.course.finished

    @property
    def model(self) -> NDArray[np.float32]:
        """The model as it is, float32 [parameters]."""
        return self.course.model

    @property
    def past(self) -> list[Past]:
        """Rounds that are over."""
        return self._kept.past

    @property
    def most_bytes(self) -> int:
        """What no message of the running round is longer than."""
        task = self._task
        size = 0 if task is None else task.numbers.wire_bytes(task.size)
        return size + 65536 + 512 * len(self.roster)

    def offer(self, client: str) -> Task | None:
        """The round that a client can take part in now."""
        found = self.round
        if found is None or found.phase != "advertise" or client in found.heard:
            return None
        return found.state.task

    def material(self, number: int) -> bytes:
        """What a round is of, as MessagePack. Raises Replay for another round."""
        self._running(number)
        return self._material

    def receive(self, client: str, number: int, message: Message, now_s: float) -> None:
        """Take a client's message and keep it. Raises ProtocolError."""
        found = self._running(number)
        if message.context != found.context:
            raise Replay("a message of another round")
        found.receive(client, message)
        if found.phase == "advertise" and len(found.heard) == found.state.task.threshold:
            self._since_s = now_s
        self._keep(found)
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
            self._keep(found)
        else:
            self.course.learn(self._ask, result)
            self._kept.course = self.course.state()
            rows = int(result.weights[0]) if found.state.task.weights == 1 else 0
            self._kept.past.append(Past(found.state.task.number, result.clients, rows))
            self._next(now_s)
        return True

    def spent(self) -> dict[str, Any]:
        """What all rounds that were begun spend of privacy, for the card."""
        if self.plan.recipe.noise <= 0:
            return {"unit": None, "epsilon": None}
        task = self._made(self.course.learning(self._kept.number), b"")
        return privacy.said(task, self._kept.number - 1)

    def status(self) -> dict[str, Any]:
        """The state in words and numbers; nothing of any client's."""
        found = self.round
        return {
            "federation": self.plan.federation,
            "finished": self.finished,
            "succeeded": self.course.done,
            "rounds": len(self.plan.stages),
            "asks": None if found is None else found.state.task.recipe.kind,
            "number": self._kept.number,
            "phase": None if found is None else found.phase,
            "heard": 0 if found is None else len(found.heard),
            "expected": 0 if found is None else len(found.expected),
            "past": [msgspec.to_builtins(past) for past in self._kept.past[-5:]],
        }

    def _keep(self, found: Round) -> None:
        """Keep the running round; the sum only where it has changed."""
        light = found.phase != "mask" and (self._folder / _ROUND).exists()
        files.replace(self._folder / (_LIGHT if light else _ROUND), found.snapshot(light=light))

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

    def _next(self, now_s: float) -> None:
        self._kept.number += 1
        self.round = None
        self._open(now_s)

    def _open(self, now_s: float) -> None:
        """Keep what is, and open the next round, if there is one."""
        files.replace(self._folder / _KEPT, msgspec.msgpack.encode(self._kept))
        (self._folder / _ROUND).unlink(missing_ok=True)
        (self._folder / _LIGHT).unlink(missing_ok=True)
        self._since_s = now_s
        self._prepare()
        if self._task is not None:
            self.round = Round(self._task, self.roster)

    def _prepare(self) -> None:
        """Make the next round's material and task; None where all rounds are done."""
        self._task: Task | None = None
        if self.finished:
            return
        self._ask = self.course.ask(self._kept.number, len(self.roster))
        self._material = msgspec.msgpack.encode(self._ask.material)
        self._task = self._made(self._ask, self._material)

    def _made(self, ask: Ask, material: bytes) -> Task:
        plan = self.plan
        return Task(
            federation=plan.federation,
            number=self._kept.number,
            size=ask.values + ask.weights,
            weights=ask.weights,
            bits=ask.bits,
            clip=ask.clip,
            max_weight=ask.max_weight,
            threshold=plan.threshold or usual_threshold(len(self.roster)),
            clients=tuple(sorted(self.roster)),
            model=hashlib.sha256(material).digest(),
            recipe=ask.recipe,
        )
