"""Who is not of the federation stays outside, and who is cannot bend its rules over the wire."""

from __future__ import annotations

import asyncio
import datetime
import http.client
import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.federated import certificates
from models.federated.client import Client
from models.federated.course import Course, Plan
from models.federated.hub import Hub
from models.federated.messages import Task
from models.federated.service import Service
from models.federated.site import Site

NAMES = ["site-0", "site-1", "site-2"]


class Listening:
    """A service in a thread, and what its hospitals and strangers hold."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.own = folder, folder / "own"
        now = datetime.datetime.now(datetime.UTC)
        certificates.make(self.own, NAMES)
        certificates.make(folder / "expired", NAMES, now=now - datetime.timedelta(days=800))
        certificates.make(folder / "other", NAMES)
        certificates.make(folder / "unlisted", NAMES)
        # The server believes these authorities; the roster names the keys of its own only.
        shutil.copytree(self.own, folder / "server")
        believed = [(folder / name / "ca.pem").read_bytes() for name in ("expired", "unlisted")]
        with (folder / "server" / "ca.pem").open("ab") as file:
            file.write(b"".join(believed))
        self.roster = certificates.read_roster(self.own / "roster.json")
        plan = Plan(rounds=3, gather_s=1e6, phase_s=1e6)
        self.hub = Hub(folder / "hub", self.roster, Course(plan, np.zeros(20, np.float32)), 0.0)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(60)

    async def _serve(self) -> None:
        service = Service(self.hub, self.folder / "server", host="127.0.0.1", port=0)
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with service.listening():
            self.port = service.port
            self._ready.set()
            await self._over.wait()

    def close(self) -> None:
        """Stop listening."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def ask(self, method: str, path: str, body: bytes = b"", of: str = "own") -> tuple[int, Any]:
        """Status and answer to what site-0 asks with a certificate of some folder."""
        context = ssl.create_default_context(cafile=str(self.own / "ca.pem"))
        context.load_cert_chain(self.folder / of / "site-0.pem", self.folder / of / "site-0.key")
        asked = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        try:
            asked.request(method, path, body)
            answer = asked.getresponse()
            return answer.status, answer.read()
        finally:
            asked.close()

    def said(self, path: str, body: bytes) -> tuple[int, str]:
        """Status and code of what is posted."""
        status, answer = self.ask("POST", path, body)
        return status, json.loads(answer)["code"] if answer else ""


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """A federation of three that waits for its first message."""
    found = Listening(tmp_path_factory.mktemp("strangers"))
    yield found
    found.close()


@pytest.mark.parametrize("of", ["expired", "other"])
def test_expired_certificates_and_other_authorities_do_not_get_in(
    listening: Listening, of: str
) -> None:
    """The connection ends before a word of HTTP; the hub hears nothing."""
    with pytest.raises((ssl.SSLError, OSError)):
        listening.ask("GET", "/v1/status", of=of)
    assert listening.ask("GET", "/v1/status")[0] == 200


def test_a_key_that_the_roster_does_not_name_is_told_so(listening: Listening) -> None:
    """Its certificate is believed, its key is nobody's: everything is refused."""
    for method, path in (
        ("GET", "/v1/status"),
        ("GET", "/v1/task"),
        ("GET", "/v1/rounds/1/material"),
        ("POST", "/v1/rounds/1/messages"),
        ("GET", "/v1/rounds/1/answers/advertise"),
    ):
        status, answer = listening.ask(method, path, of="unlisted")
        assert (status, json.loads(answer)["code"]) == (403, "unknown_client")


@pytest.mark.parametrize("of", ["other", "expired"])
def test_a_hospital_talks_to_no_server_of_another_authority(
    listening: Listening, tmp_path: Path, of: str
) -> None:
    """It ends with the reason instead of trying for ever; nothing of it was sent."""

    class Never:
        def answer(self, *_: Any) -> Any:
            raise AssertionError("nothing may be computed for such a server")

    keys = listening.folder / of
    site = Site("site-0", f"https://127.0.0.1:{listening.port}", keys, tmp_path, Never())
    with pytest.raises(ssl.SSLCertVerificationError):
        site.run()


def test_misuse_over_the_wire_has_its_code_and_changes_nothing(listening: Listening) -> None:
    """Garbage, too long, another round, twice, another's words, an unknown phase."""
    round_ = listening.hub.round
    assert round_ is not None
    status, answer = listening.ask("GET", "/v1/task")
    assert status == 200
    task = msgspec.msgpack.decode(answer, type=Task)
    own, another = (
        Client(n, certificates.read_key(listening.own / f"{n}.key"), listening.roster, task)
        for n in ("site-0", "site-1")
    )
    mine, foreign = (msgspec.msgpack.encode(c.advertise()) for c in (own, another))
    assert listening.said("/v1/rounds/1/messages", b"\x00garbage") == (409, "refused")
    too_long = bytes(listening.hub.most_bytes + 1)
    assert listening.said("/v1/rounds/1/messages", too_long) == (413, "wrong_size")
    assert listening.said("/v1/rounds/2/messages", mine) == (409, "replay")
    assert listening.said("/v1/rounds/1/messages", foreign) == (400, "bad_signature")
    assert not round_.heard
    assert listening.said("/v1/rounds/1/messages", mine) == (202, "")
    assert listening.said("/v1/rounds/1/messages", mine) == (409, "repeated")
    assert listening.ask("GET", "/v1/rounds/1/answers/never")[0] == 409
    assert list(round_.heard) == ["site-0"]
