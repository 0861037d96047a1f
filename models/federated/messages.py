"""What clients and server of a secure sum say to each other, as MessagePack.

Every message carries the round's `context`, the hash of its task, to which all signatures and keys
are bound: two clients that were told different tasks share no keys.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from models.federated.fixed_point import FixedPoint

Phase = Literal["advertise", "share", "mask", "agree", "unmask", "done"]
PHASES: tuple[Phase, ...] = ("advertise", "share", "mask", "agree", "unmask", "done")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A round, the same for all of its clients.

    Attributes:
        federation: Name of the federation.
        number: Of the round; only grows.
        size: Entries of the vector, the last one being the client's weight.
        bits: Bits of an entry on the wire, 24 or 32.
        clip: Bound of an entry's magnitude.
        max_weight: Largest weight; an update is sent times its weight over this.
        threshold: Clients without whom nothing is revealed.
        clients: The roster, sorted.
        model: SHA-256 of the model that the updates are of: all train from the same one.
    """

    federation: str
    number: int
    size: int
    bits: Literal[24, 32]
    clip: float
    max_weight: int
    threshold: int
    clients: tuple[str, ...]
    model: bytes

    @property
    def context(self) -> bytes:
        """What names the round in every message, signature and key."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()

    @property
    def numbers(self) -> FixedPoint:
        """The fixed point of the round."""
        return FixedPoint(bits=self.bits, clients=len(self.clients), clip=self.clip)

    def check(self) -> None:
        """Raises ValueError where no round can be like this."""
        if tuple(sorted(set(self.clients))) != self.clients or len(self.clients) < 3:
            raise ValueError("a round has three or more clients, sorted, each once")
        if not least_threshold(len(self.clients)) <= self.threshold <= len(self.clients):
            raise ValueError(f"a threshold of {self.threshold} of {len(self.clients)} clients")
        if not 2 <= self.size <= 2**31 or self.number < 1:
            raise ValueError("a round has a positive number and at least 2 entries")
        if not 1 <= self.max_weight <= self.numbers.most:
            raise ValueError(f"a largest weight of {self.max_weight}")


def least_threshold(count: int) -> int:
    """More than half: two different sets of survivors can then not both be agreed on."""
    return count // 2 + 1


def usual_threshold(count: int) -> int:
    """Two thirds: up to a third may drop out."""
    return max(least_threshold(count), -(-2 * count // 3))


class Advertise(msgspec.Struct, frozen=True, tag="advertise"):
    """A client's two public keys of the round: for talking, for masking; signed."""

    context: bytes
    talk: bytes
    mask: bytes
    signature: bytes


class Shares(msgspec.Struct, frozen=True, tag="share"):
    """A client's sealed shares by receiver, and the hash of its self-mask's seed."""

    context: bytes
    commitment: bytes
    sealed: dict[str, bytes]


class Masked(msgspec.Struct, frozen=True, tag="mask"):
    """A client's masked vector."""

    context: bytes
    data: bytes


class Agree(msgspec.Struct, frozen=True, tag="agree"):
    """A client's signature under the list of those whose vectors were summed."""

    context: bytes
    signature: bytes


class Unmask(msgspec.Struct, frozen=True, tag="unmask"):
    """A client's shares: self-mask seeds of survivors, mask keys of those who dropped."""

    context: bytes
    seeds: dict[str, bytes]
    keys: dict[str, bytes]


Message = Advertise | Shares | Masked | Agree | Unmask


class Roster(msgspec.Struct, frozen=True, tag="roster"):
    """Server's answer to advertise: the keys of all who advertised."""

    context: bytes
    advertised: dict[str, Advertise]


class Inbox(msgspec.Struct, frozen=True, tag="inbox"):
    """Server's answer to share: what others sealed for this client."""

    context: bytes
    sealed: dict[str, bytes]


class Survivors(msgspec.Struct, frozen=True, tag="survivors"):
    """Server's answer to mask: those whose vectors were summed."""

    context: bytes
    clients: tuple[str, ...]


class Agreed(msgspec.Struct, frozen=True, tag="agreed"):
    """Server's answer to agree: the signatures under that list."""

    context: bytes
    signatures: dict[str, bytes]


Answer = Roster | Inbox | Survivors | Agreed


def to_be_signed(what: str, context: bytes, *parts: str | bytes) -> bytes:
    """Bytes of a statement, unambiguous."""
    return msgspec.msgpack.encode(["vitalstream secure sum 1", what, context, *parts])
