"""What clients and server of a secure sum say to each other, as MessagePack.

Every message carries the round's `context`, the hash of its task, to which all signatures and keys
are bound: two clients that were told different tasks share no keys.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, Literal

import msgspec

from models.federated.fixed_point import Bits, FixedPoint
from models.federated.masks import LABEL

Phase = Literal["advertise", "share", "mask", "agree", "unmask", "done"]
Kind = Literal["count", "average", "gradient", "bins", "spread"]
Unit = Literal["hospital", "stay"]
TAIL: Final = 8.6
"""Standard deviations that no draw of 53 bits of Box and Muller's normal leaves."""
FINE: Final = 64.0
"""Steps of the fixed point in a standard deviation of the noise, at least."""
PHASES: tuple[Phase, ...] = ("advertise", "share", "mask", "agree", "unmask", "done")


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What the sites compute in a round; the same for all, since the round's context has it.

    Attributes:
        kind: `count` what is labelled; `average` local passes, whose change is sent; `gradient`
            local steps, whose mean gradient is sent; `bins` and `spread` for the calibration.
        share: Part of a site's rows that it takes.
        rate: Local learning rate.
        batch: Rows of a local step.
        support: Only these entries of an update are sent, as the round's material names them.
        norm: Private rounds only: bound of one unit's update (L2).
        noise: Private rounds only: standard deviation of the sum's noise over `norm`.
        unit: Private rounds only: whose update is bounded, a whole hospital's or one stay's.
    """

    kind: Kind = "average"
    share: float = 1.0
    rate: float = 1e-3
    batch: int = 512
    support: bool = False
    norm: float = 0.0
    noise: float = 0.0
    unit: Unit = "hospital"

    def check(self) -> None:
        """Raises ValueError where no round can be like this."""
        if not 0 < self.share <= 1 or not self.rate > 0 or self.batch < 1:
            raise ValueError("a share in (0, 1], a positive rate and a batch of rows are needed")
        if not (self.noise >= 0 and self.norm >= 0) or (self.noise > 0) != (self.norm > 0):
            raise ValueError("noise and a bound of what it hides come together")
        if self.noise and self.kind not in ("average", "gradient"):
            raise ValueError("only what is learnt can be private")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A round, the same for all of its clients.

    Attributes:
        federation: Name of the federation.
        number: Of the round; only grows.
        size: Entries of the vector, the last `weights` of them whole numbers.
        weights: Whole numbers at the end: what a site counts; the rows behind an update.
        bits: Bits of an entry on the wire.
        clip: Bound of an entry's magnitude.
        max_weight: Largest whole number; an update is sent times its weight over this.
        threshold: Clients without whom nothing is revealed.
        clients: The roster, sorted.
        model: SHA-256 of the material that the vectors are of: all have the same.
        recipe: What the clients compute.
    """

    federation: str
    number: int
    size: int
    weights: int = 1
    bits: Bits
    clip: float
    max_weight: int
    threshold: int
    clients: tuple[str, ...]
    model: bytes
    recipe: Recipe = Recipe()

    @property
    def context(self) -> bytes:
        """What names the round in every message, signature and key."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()

    @property
    def numbers(self) -> FixedPoint:
        """The fixed point of the round; it has room for the noise of every client."""
        room = self.clip + TAIL * self.own_noise
        return FixedPoint(bits=self.bits, clients=len(self.clients), clip=room)

    @property
    def own_noise(self) -> float:
        """Standard deviation of the noise that each client adds: a threshold of them suffices."""
        return self.recipe.noise * self.recipe.norm / math.sqrt(self.threshold)

    def check(self) -> None:
        """Raises ValueError where no round can be like this."""
        if tuple(sorted(set(self.clients))) != self.clients or len(self.clients) < 3:
            raise ValueError("a round has three or more clients, sorted, each once")
        if not least_threshold(len(self.clients)) <= self.threshold <= len(self.clients):
            raise ValueError(f"a threshold of {self.threshold} of {len(self.clients)} clients")
        if not 2 <= self.size <= 2**31 or self.number < 1:
            raise ValueError("a round has a positive number and at least 2 entries")
        if not 0 <= self.weights <= self.size:
            raise ValueError(f"{self.weights} whole numbers in {self.size} entries")
        self.recipe.check()
        if not 1 <= self.max_weight <= self.numbers.most:
            raise ValueError(f"a largest weight of {self.max_weight}")
        if self.recipe.noise and self.own_noise < FINE * self.numbers.step:
            raise ValueError("noise too small for the steps of the fixed point")


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
    """A client's masked vector, not copied between its words and the wire."""

    context: bytes
    data: memoryview


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
    return msgspec.msgpack.encode([LABEL, what, context, *parts])
