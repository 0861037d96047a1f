"""A client's side of the secure sum (Bonawitz et al. 2017, arXiv 1611.04482): messages to messages.

Double masking against a server that may lie. The client trusts the roster of identity keys that it
was given, never the server's word. It signs one list of survivors, and only for that list, signed
by a threshold of clients, does it reveal: of a survivor the self-mask's share, of others the mask
key's. So no one learns both of the same client. State is memory only: a client that dies drops out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from models.federated import shamir
from models.federated.errors import (
    BadSignature,
    Late,
    Lied,
    ProtocolError,
    Replay,
    Tampered,
    TooFew,
    UnknownClient,
    WrongSize,
)
from models.federated.masks import Masker, derive
from models.federated.messages import (
    PHASES,
    Advertise,
    Agree,
    Agreed,
    Inbox,
    Masked,
    Phase,
    Roster,
    Shares,
    Survivors,
    Task,
    Unmask,
    to_be_signed,
)
from models.federated.noise import normal_words

_ONCE: Final = bytes(12)
"""The nonce of a key that seals one message."""


class Client:
    """One client in one round; each method is called once, in order.

    Args:
        name: On the roster.
        identity: Its signing key.
        roster: Everyone's identity, from the client's own folder.
        task: The round as the server says.
        last: Number of the last round that this client took part in.

    Raises:
        Replay: The round's number is not new.
        Lied: The task is not one that this client takes part in.
    """

    def __init__(
        self,
        name: str,
        identity: Ed25519PrivateKey,
        roster: Mapping[str, Ed25519PublicKey],
        task: Task,
        *,
        last: int = 0,
    ) -> None:
        if task.number <= last:
            raise Replay(f"round {task.number} is not newer than round {last}")
        if task.clients != tuple(sorted(roster)) or name not in roster:
            raise Lied("the round's clients are not those of the roster")
        try:
            task.check()
        except ValueError as error:
            raise Lied(f"the round is not possible: {error}") from error
        self.name, self.task, self.context = name, task, task.context
        self._identity, self._roster = identity, roster
        self._talk, self._mask = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(32)
        self._next: Phase = "advertise"
        self._advertised: dict[str, Advertise] = {}
        self._sealed: dict[str, bytes] = {}
        self._signed: tuple[str, ...] = ()
        self._talked: dict[str, bytes] = {}

    def advertise(self) -> Advertise:
        """This round's public keys, signed."""
        self._step("advertise")
        talk, mask = (key.public_key().public_bytes_raw() for key in (self._talk, self._mask))
        said = to_be_signed("advertise", self.context, self.name, talk, mask)
        return Advertise(self.context, talk, mask, self._identity.sign(said))

    def share(self, answer: Roster) -> Shares:
        """Shares of this client's two secrets, each sealed for its receiver.

        Raises:
            BadSignature: A key is not signed by whom it is said to be of.
            UnknownClient: A key is of nobody on the roster.
            Lied: This client's own keys are not as sent, or keys are used twice.
            TooFew: Fewer clients than the threshold.
        """
        self._step("share", answer.context)
        if len(answer.advertised) < self.task.threshold:
            raise TooFew(f"{len(answer.advertised)} of {self.task.threshold} clients needed")
        for name, said in answer.advertised.items():
            if name not in self._roster:
                raise UnknownClient("a key is of nobody on the roster")
            self._verify(
                name,
                said.signature,
                to_be_signed("advertise", self.context, name, said.talk, said.mask),
            )
        own = answer.advertised.get(self.name)
        if own is None or own.mask != self._mask.public_key().public_bytes_raw():
            raise Lied("the server does not know this client's keys")
        keys = [key for said in answer.advertised.values() for key in (said.talk, said.mask)]
        if len(set(keys)) != len(keys):
            raise Lied("a key is used twice")
        self._advertised = dict(answer.advertised)
        count = len(self.task.clients)
        seeds = shamir.split(self._seed, self.task.threshold, count)
        masks = shamir.split(self._mask.private_bytes_raw(), self.task.threshold, count)
        sealed = {}
        for name in self._advertised:
            at = self.task.clients.index(name)
            opened = seeds[at] + masks[at]
            if name == self.name:
                self._own = opened
                continue
            sealed[name] = ChaCha20Poly1305(self._channel(self.name, name)).encrypt(
                _ONCE, opened, self.context
            )
        return Shares(self.context, commitment(self.context, self._seed), sealed)

    def mask(
        self,
        answer: Inbox,
        values: NDArray[np.float32],
        weights: int | Sequence[int] | NDArray[np.int64] = 1,
    ) -> Masked:
        """The vector with this client's whole numbers behind it, in fixed point and masked.

        Args:
            answer: What others sealed for this client; all of it is opened at once, so that a
                spoilt share is known before the vector is sent.
            values: Finite, [size - weights]; cut to the task's bound.
            weights: From 0 to the task's `max_weight`; the last entries of the vector.
        """
        self._step("mask", answer.context)
        counts = np.atleast_1d(np.asarray(weights, np.int64))
        if values.shape != (self.task.size - self.task.weights,):
            raise WrongSize(f"an update of shape {values.shape} for {self.task.size} entries")
        if counts.shape != (self.task.weights,):
            raise WrongSize(f"{len(counts)} whole numbers, not {self.task.weights}")
        if len(counts) and not 0 <= counts.min() <= counts.max() <= self.task.max_weight:
            raise ValueError(f"whole numbers must lie in [0, {self.task.max_weight}]")
        unknown = answer.sealed.keys() - self._advertised.keys()
        if unknown or self.name in answer.sealed:
            raise Lied("shares of a client that did not advertise")
        if len(answer.sealed) + 1 < self.task.threshold:
            raise TooFew(f"{len(answer.sealed) + 1} of {self.task.threshold} clients needed")
        self._shares: dict[str, tuple[bytes, bytes]] = {}
        plus: list[bytes] = [derive(self._seed, self.context, "self")]
        minus: list[bytes] = []
        for name, sealed in answer.sealed.items():
            try:
                opened = ChaCha20Poly1305(self._channel(name, self.name)).decrypt(
                    _ONCE, sealed, self.context
                )
            except InvalidTag as error:
                raise Tampered("a share does not open") from error
            if len(opened) != 2 * shamir.SHARE_BYTES:
                raise WrongSize("a share of a wrong size")
            self._shares[name] = opened[: shamir.SHARE_BYTES], opened[shamir.SHARE_BYTES :]
            key = pair_key(self._mask, self._advertised[name].mask, self.context, self.name, name)
            (plus if self.name < name else minus).append(key)
        own = self._own
        self._shares[self.name] = own[: shamir.SHARE_BYTES], own[shamir.SHARE_BYTES :]
        numbers, masker = self.task.numbers, Masker(plus, minus)
        if self.task.recipe.noise and np.isfinite(values).all():
            # The fixed point has room for the noise, which is added to what was cut already.
            values = np.clip(values, -self.task.clip, self.task.clip)
        words = np.empty(self.task.size, np.uint32)
        numbers.encode(values, masker, out=words[: len(values)])
        words[len(values) :] = counts
        masker(words[len(values) :])
        if self.task.recipe.noise:
            words[: len(values)] += normal_words(len(values), self.task.own_noise / numbers.step)
        return Masked(self.context, numbers.pack(words))

    def agree(self, answer: Survivors) -> Agree:
        """This client's signature under the list of survivors, the only one it gives.

        Raises:
            Lied: The list leaves this client out, or has someone without shares.
            TooFew: Fewer survivors than the threshold.
        """
        self._step("agree", answer.context)
        clients = answer.clients
        if tuple(sorted(set(clients))) != clients or not self._shares.keys() >= set(clients):
            raise Lied("survivors that this client has no shares of")
        if self.name not in clients:
            raise Lied("the server says that this client dropped out")
        if len(clients) < self.task.threshold:
            raise TooFew(f"{len(clients)} of {self.task.threshold} clients needed")
        self._signed = clients
        return Agree(
            self.context,
            self._identity.sign(to_be_signed("agree", self.context, *clients)),
        )

    def unmask(self, answer: Agreed) -> Unmask:
        """Of survivors the self-mask's share, of the others the mask key's; then all is forgotten.

        Raises:
            BadSignature: A survivor signed another list.
            TooFew: Fewer signatures than the threshold.
        """
        self._step("unmask", answer.context)
        if len(answer.signatures) < self.task.threshold:
            raise TooFew(f"{len(answer.signatures)} of {self.task.threshold} signatures needed")
        said = to_be_signed("agree", self.context, *self._signed)
        for name, signature in answer.signatures.items():
            if name not in self._signed:
                raise Lied("a signature of a client that is no survivor")
            self._verify(name, signature, said)
        revealed = Unmask(
            self.context,
            {name: self._shares[name][0] for name in self._signed},
            {name: key for name, (_, key) in self._shares.items() if name not in self._signed},
        )
        self._shares.clear()
        self._talked.clear()
        return revealed

    def _step(self, phase: Phase, context: bytes | None = None) -> None:
        """Go on to `phase`; a step that fails is not repeated: the client has left the round."""
        if context is not None and context != self.context:
            raise Replay("an answer of another round")
        if phase != self._next:
            raise Late(f"{phase} was already done, or its turn has not come")
        self._next = PHASES[PHASES.index(phase) + 1]

    def _verify(self, name: str, signature: bytes, said: bytes) -> None:
        try:
            self._roster[name].verify(signature, said)
        except InvalidSignature as error:
            raise BadSignature("a message that its sender did not sign") from error

    def _channel(self, sender: str, receiver: str) -> bytes:
        """The key that seals what `sender` says to `receiver` in this round."""
        other = receiver if sender == self.name else sender
        if other not in self._talked:
            self._talked[other] = exchange(self._talk, self._advertised[other].talk)
        return derive(self._talked[other], self.context, "seal", sender, receiver)


def exchange(secret: X25519PrivateKey, public: bytes) -> bytes:
    """X25519; raises ProtocolError for a key that is none."""
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError("a public key that is none") from error


def pair_key(secret: X25519PrivateKey, public: bytes, context: bytes, a: str, b: str) -> bytes:
    """The mask key of two clients in a round; the one whose name is less adds its stream."""
    return derive(exchange(secret, public), context, "pair", *sorted((a, b)))


def commitment(context: bytes, seed: bytes) -> bytes:
    """What a client says of its seed beforehand, so that a wrong share is noticed."""
    return hashlib.sha256(b"seed" + context + seed).digest()
