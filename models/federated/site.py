"""A hospital's side: waits for a round, trains on its own data, takes part in the secure sum.

The number of the last round is on disk before the first message leaves. A site that is killed is a
dropout of that round and takes part in the next one; it never speaks twice in one round.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.federated import files
from models.federated.certificates import read_key, read_roster
from models.federated.client import Client
from models.federated.course import Material
from models.federated.errors import ERRORS, Lied, ProtocolError, Repeated
from models.federated.messages import Agreed, Answer, Inbox, Phase, Roster, Survivors, Task
from models.federated.outgoing import Learner, Outgoing
from models.federated.privacy import Budget

log = structlog.get_logger(__name__)
T = TypeVar("T", bound=Answer)

_RETRY_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_TIMEOUT_S: Final = 30.0
_MOST_BYTES: Final = 1 << 30


class Finished(Exception):
    """All rounds are done."""


class Stopped(Exception):
    """This site was told to stop."""


class Site:
    """One hospital.

    Args:
        name: On the roster.
        url: https://HOST:PORT of the server.
        certificates: Folder with ca.pem, NAME.pem, NAME.key and this site's own roster.json.
        folder: Where its state lies.
        learner: What trains.
        federation: The only federation that it takes part in.
        budget: Of privacy, in rounds that are private; without one there is none.

    Raises:
        ValueError: The key is not the roster's, or the address is not https.
    """

    def __init__(
        self,
        name: str,
        url: str,
        certificates: Path,
        folder: Path,
        learner: Learner,
        *,
        federation: str = "vitalstream",
        budget: Budget | None = None,
    ) -> None:
        self._federation, self._budget = federation, budget
        self._outgoing = Outgoing()
        self.name, self._learner, self._folder = name, learner, folder
        self._roster: Mapping[str, Ed25519PublicKey] = read_roster(certificates / "roster.json")
        self._identity: Ed25519PrivateKey = read_key(certificates / f"{name}.key")
        if self._roster.get(name) != self._identity.public_key():
            raise ValueError(f"{name}: the key is not the one on the roster")
        address = urlsplit(url)
        if address.scheme != "https" or not address.hostname:
            raise ValueError(f"{url!a} is not allowed: https://HOST:PORT")
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        self._connection = http.client.HTTPSConnection(
            address.hostname, address.port or 443, timeout=_TIMEOUT_S, context=context
        )
        self._stop = threading.Event()
        self.rounds = 0

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stop.set()

    def run(self) -> None:
        """Take part in rounds until all are done or `stop`; a refusal ends only its round."""
        try:
            while True:
                task = self._task()
                try:
                    self._take_part(task)
                    self.rounds += 1
                    log.info("round done", hospital=self.name, round=task.number)
                except ProtocolError as error:
                    log.warning("round left", hospital=self.name, round=task.number, why=str(error))
                    # The same offer again, and the same refusal, must not become a busy loop.
                    self._stop.wait(1.0)
        except (Finished, Stopped):
            return
        finally:
            self._connection.close()

    @property
    def last(self) -> int:
        """Number of the last round taken part in."""
        path = self._folder / f"{self.name}.json"
        return int(json.loads(path.read_text())["round"]) if path.exists() else 0

    def _take_part(self, task: Task) -> None:
        if task.federation != self._federation:
            raise Lied("the round is of another federation, or starts from another model")
        client = Client(self.name, self._identity, self._roster, task, last=self.last)
        if self._budget is not None:
            self._budget.check(task)
        data = self._ask("GET", f"/v1/rounds/{task.number}/material")
        if hashlib.sha256(data).digest() != task.model:
            raise Lied("the material is not the one that the round is of")
        try:
            material = msgspec.msgpack.decode(data, type=Material)
            said = self._learner.answer(task.recipe, material, task.number)
            sent = self._outgoing.prepare(task.recipe, task.max_weight, material, said)
        except (msgspec.DecodeError, ValueError) as error:
            raise Lied(f"the round cannot be answered: {error}") from error
        files.replace(
            self._folder / f"{self.name}.json", json.dumps({"round": task.number}).encode()
        )
        self._say(task, client.advertise())
        self._say(task, client.share(self._hear(task, "advertise", Roster)))
        if self._budget is not None:
            self._budget.spend(task)
        self._say(task, client.mask(self._hear(task, "share", Inbox), sent.values, sent.weights))
        self._say(task, client.agree(self._hear(task, "mask", Survivors)))
        self._say(task, client.unmask(self._hear(task, "agree", Agreed)))
        self._outgoing.done()

    def _task(self) -> Task:
        while True:
            data = self._ask("GET", "/v1/task")
            if not data:
                continue
            task = msgspec.msgpack.decode(data, type=Task)
            if task.number > self.last:
                return task
            # A round that this site has begun and left: wait for the next.
            if self._stop.wait(1.0):
                raise Stopped

    def _say(self, task: Task, message: Any) -> None:
        body = msgspec.msgpack.encode(message)
        self._ask("POST", f"/v1/rounds/{task.number}/messages", body)

    def _hear(self, task: Task, phase: Phase, kind: type[T]) -> T:
        while True:
            data = self._ask("GET", f"/v1/rounds/{task.number}/answers/{phase}")
            if data:
                try:
                    return msgspec.msgpack.decode(data, type=kind)
                except msgspec.DecodeError as error:
                    raise ProtocolError("an answer that is none") from error

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Body of the answer, empty for none yet; a lost connection is tried again until stopped.

        Raises:
            ProtocolError: By the server's code.
            Finished: All rounds are done.
            Stopped: This site was told to stop.
        """
        tries = 0
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                self._connection.request(method, path, body)
                response = self._connection.getresponse()
                status, data = response.status, response.read(_MOST_BYTES)
                break
            except ssl.SSLCertVerificationError:
                raise
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                wait_s = _RETRY_S[min(tries, len(_RETRY_S) - 1)]
                tries += 1
                log.info("no answer", hospital=self.name, why=type(error).__name__, again_s=wait_s)
                self._stop.wait(wait_s)
        if status < 300:
            return data
        try:
            said = json.loads(data)
            code, detail = str(said["code"]), str(said["detail"])
        except (ValueError, KeyError, TypeError):
            code, detail = "refused", f"HTTP {status}"
        if code == "finished":
            raise Finished
        kind = ERRORS.get(code, ProtocolError)
        if kind is Repeated and tries:
            # The first try arrived, its answer did not.
            return b""
        raise kind(detail)
