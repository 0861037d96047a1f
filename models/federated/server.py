"""The server's side of the secure sum: it passes messages on, adds vectors, and learns their sum.

No network and no time: the caller hands in what clients sent and closes a phase when all have
answered or the time is up. The whole state is one struct, so that a killed server goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from models.federated import shamir
from models.federated.client import commitment, pair_key
from models.federated.errors import (
    BadSignature,
    Early,
    Late,
    Lied,
    Repeated,
    Replay,
    Tampered,
    TooFew,
    UnknownClient,
    WrongSize,
)
from models.federated.masks import PROTOCOL, Words, derive, mask
from models.federated.messages import (
    PHASES,
    Advertise,
    Agree,
    Agreed,
    Answer,
    Inbox,
    Masked,
    Message,
    Phase,
    Roster,
    Shares,
    Survivors,
    Task,
    Unmask,
    to_be_signed,
)

_SEALED_BYTES = 2 * shamir.SHARE_BYTES + 16


class State(msgspec.Struct, kw_only=True):
    """All that a round is, but the running sum."""

    task: Task
    protocol: int = 1  # of rounds that were kept before they had one
    phase: Phase = "advertise"
    advertised: dict[str, Advertise] = {}
    shares: dict[str, Shares] = {}
    masked: list[str] = []
    agreed: dict[str, bytes] = {}
    unmasked: dict[str, Unmask] = {}

    @property
    def progress(self) -> int:
        """Grows with every message and phase."""
        heard = (self.advertised, self.shares, self.masked, self.agreed, self.unmasked)
        return PHASES.index(self.phase) + sum(len(each) for each in heard)


class Result(msgspec.Struct, frozen=True):
    """What a round gave.

    Attributes:
        total: The sum of the weighted values, float64 [size - weights].
        weights: The sums of the whole numbers, int64 [weights].
        clients: Whose vectors were summed.
    """

    total: NDArray[np.float64]
    weights: NDArray[np.int64]
    clients: tuple[str, ...]


class Round:
    """One round; `identities` are the roster's."""

    def __init__(self, task: Task, identities: Mapping[str, Ed25519PublicKey]) -> None:
        task.check()
        if tuple(sorted(identities)) != task.clients:
            raise ValueError("the round's clients are not those of the roster")
        self.state = State(task=task, protocol=PROTOCOL)
        self.context = task.context
        self._identities = identities
        self._sum: Words = np.zeros(task.size, np.uint32)

    @classmethod
    def restore(
        cls, data: bytes, identities: Mapping[str, Ed25519PublicKey], light: bytes | None = None
    ) -> Round:
        """A round as it was when the later of a `snapshot` and a light one was taken."""
        state, total = msgspec.msgpack.decode(data, type=tuple[State, bytes])
        if light is not None:
            other, _ = msgspec.msgpack.decode(light, type=tuple[State, bytes])
            if other.task == state.task and other.progress > state.progress:
                state = other
        found = cls(state.task, identities)
        found.state = state
        if total:
            found._sum = np.frombuffer(total, "<u4").astype(np.uint32)
        return found

    def snapshot(self, *, light: bool = False) -> bytes:
        """The round as bytes; holds nothing that the server has not received.

        Args:
            light: Without the sum, which changes in one phase only: what comes after a snapshot.
        """
        total = b"" if light else self._sum.astype("<u4").tobytes()
        return msgspec.msgpack.encode((self.state, total))

    @property
    def phase(self) -> Phase:
        """The phase that messages are taken for."""
        return self.state.phase

    @property
    def expected(self) -> Collection[str]:
        """Clients that may speak in this phase."""
        at = PHASES.index(self.state.phase)
        if at == 0:
            return self.state.task.clients
        return self._heard(PHASES[at - 1]) if self.state.phase != "done" else ()

    @property
    def heard(self) -> Collection[str]:
        """Clients that have spoken in this phase."""
        return self._heard(self.state.phase)

    def receive(self, sender: str, message: Message) -> None:
        """Take a client's message; the transport has made sure who sent it.

        Raises:
            ProtocolError: By kind; nothing is changed then.
        """
        state = self.state
        if sender not in self._identities:
            raise UnknownClient("the sender is not on the roster")
        if message.context != self.context:
            raise Replay("a message of another round")
        phase: Phase = type(message).__struct_config__.tag  # type: ignore[assignment]
        if sender in self._heard(phase):
            raise Repeated(f"a second {phase}; the first one counts")
        if phase != state.phase:
            past = PHASES.index(phase) < PHASES.index(state.phase)
            raise (Late if past else Early)(f"{phase} is {'over' if past else 'not yet open'}")
        if sender not in self.expected:
            raise Late("this client dropped out of the round before")
        match message:
            case Advertise():
                said = to_be_signed("advertise", self.context, sender, message.talk, message.mask)
                self._verify(sender, message.signature, said)
                if len(message.talk) != 32 or len(message.mask) != 32:
                    raise WrongSize("a public key has 32 bytes")
                state.advertised[sender] = message
            case Shares():
                self._check_shares(sender, message)
                state.shares[sender] = message
            case Masked():
                self._sum += state.task.numbers.unpack(message.data, state.task.size)
                state.masked.append(sender)
            case Agree():
                said = to_be_signed("agree", self.context, *sorted(state.masked))
                self._verify(sender, message.signature, said)
                state.agreed[sender] = message.signature
            case Unmask():
                self._check_unmask(message)
                state.unmasked[sender] = message

    def close(self) -> Result | None:
        """End the phase with those who spoke; the result after the last one.

        Raises:
            TooFew: Fewer than the threshold; the round is over and reveals nothing.
            Tampered: The shares of a client do not give what it announced.
        """
        heard, need = len(self.heard), self.state.task.threshold
        if self.state.phase == "done":
            raise Late("the round is over")
        if heard < need:
            raise TooFew(f"{heard} clients in {self.state.phase}, {need} needed")
        result = self._open() if self.state.phase == "unmask" else None
        self.state.phase = PHASES[PHASES.index(self.state.phase) + 1]
        return result

    def answer(self, client: str, phase: Phase) -> Answer:
        """What a client is told once `phase` is over.

        Raises:
            Early: The phase is not over.
            Late: The client did not speak in it.
        """
        state = self.state
        if client not in self._identities:
            raise UnknownClient("the client is not on the roster")
        if PHASES.index(phase) >= PHASES.index(state.phase):
            raise Early(f"{phase} is not over")
        if client not in self._heard(phase):
            raise Late("this client dropped out of the round before")
        if phase == "advertise":
            return Roster(self.context, state.advertised)
        if phase == "share":
            inbox = {
                name: said.sealed[client] for name, said in state.shares.items() if name != client
            }
            return Inbox(self.context, inbox)
        if phase == "mask":
            return Survivors(self.context, tuple(sorted(state.masked)))
        if phase == "agree":
            return Agreed(self.context, state.agreed)
        raise Late("nothing is said after the last phase")

    def _heard(self, phase: Phase) -> Collection[str]:
        state = self.state
        heard: dict[str, Collection[str]] = {
            "advertise": state.advertised,
            "share": state.shares,
            "mask": state.masked,
            "agree": state.agreed,
            "unmask": state.unmasked,
        }
        return heard.get(phase, ())

    def _verify(self, sender: str, signature: bytes, said: bytes) -> None:
        try:
            self._identities[sender].verify(signature, said)
        except InvalidSignature as error:
            raise BadSignature("a message that its sender did not sign") from error

    def _check_shares(self, sender: str, message: Shares) -> None:
        others = self.state.advertised.keys() - {sender}
        if message.sealed.keys() != others:
            raise WrongSize("shares must be for each other client that advertised")
        if any(len(sealed) != _SEALED_BYTES for sealed in message.sealed.values()):
            raise WrongSize("a sealed share of a wrong size")
        if len(message.commitment) != 32:
            raise WrongSize("a commitment has 32 bytes")

    def _check_unmask(self, message: Unmask) -> None:
        survivors = set(self.state.masked)
        dropped = self.state.shares.keys() - survivors
        if message.seeds.keys() != survivors or message.keys.keys() != dropped:
            raise Lied("shares must be of each survivor's seed and of each other's key")
        both = (*message.seeds.values(), *message.keys.values())
        if any(len(share) != shamir.SHARE_BYTES for share in both):
            raise WrongSize("a share of a wrong size")

    def _open(self) -> Result:
        """Take the masks off the sum: the survivors' own, and those shared with who dropped."""
        state, numbers = self.state, self.state.task.numbers
        survivors = sorted(state.masked)
        plus: list[bytes] = []
        minus: list[bytes] = []
        for name in survivors:
            seed = self._join(name, {who: said.seeds[name] for who, said in state.unmasked.items()})
            if commitment(self.context, seed) != state.shares[name].commitment:
                raise Tampered("shares of a seed do not give what its owner announced")
            minus.append(derive(seed, self.context, "self"))
        for name in sorted(state.shares.keys() - set(survivors)):
            raw = self._join(name, {who: said.keys[name] for who, said in state.unmasked.items()})
            secret = X25519PrivateKey.from_private_bytes(raw)
            if secret.public_key().public_bytes_raw() != state.advertised[name].mask:
                raise Tampered("shares of a key do not give what its owner announced")
            for other in survivors:
                key = pair_key(secret, state.advertised[other].mask, self.context, name, other)
                # The survivor added this stream if its name is less, and took it away otherwise.
                (minus if other < name else plus).append(key)
        words = self._sum.copy()
        mask(words, plus, minus)
        at = state.task.size - state.task.weights
        return Result(numbers.decode(words[:at]), numbers.whole(words[at:]), tuple(survivors))

    def _join(self, owner: str, shares: Mapping[str, bytes]) -> bytes:
        clients = self.state.task.clients
        chosen = sorted(shares)[: self.state.task.threshold]
        try:
            return shamir.join({clients.index(name) + 1: shares[name] for name in chosen})
        except ValueError as error:
            raise Tampered("shares do not belong together") from error
