"""The plug-in speaks what its README says: a second implementation of it talks to the library."""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SOURCE = Path(__file__).parents[2] / "cuda" / "nccl_net"
SECRET = "a secret of thirty-two bytes, or more\n"
MAGIC = b"VSNET01\n"
FUNCTIONS = (
    *("init", "devices", "get_properties", "listen", "connect", "accept", "reg_mr"),
    *("reg_mr_dma_buf", "dereg_mr", "isend", "irecv", "iflush", "test"),
    *("close_send", "close_recv", "close_listen"),
)
PATIENCE_S = 20.0
GRANT, DATA, GOODBYE = 2, 1, 3


class Table(ctypes.Structure):
    """Version 9's, whose entries are called with untyped pointers."""

    _fields_ = [("name", ctypes.c_char_p), *((name, ctypes.c_void_p) for name in FUNCTIONS)]

    def call(self, name: str, *arguments: object) -> None:
        function = ctypes.CFUNCTYPE(ctypes.c_int)(getattr(self, name))
        assert function(*arguments) == 0, name


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _expand(key: bytes, label: str) -> bytes:
    return _hmac(key, label.encode() + b"\x01")


class Way:
    """Records of one direction."""

    def __init__(self, key: bytes) -> None:
        self.cipher = AESGCM(key)
        self.number = 0

    def _nonce(self, which: int) -> bytes:
        return bytes([which, 0, 0, 0]) + struct.pack(">Q", self.number)

    def seal(
        self, kind: int, place: int, group: int, offset: int, total: int, body: bytes
    ) -> bytes:
        frame = struct.pack("<IIQQQ", kind, place, group, offset, total)
        length = struct.pack("<I", len(frame) + len(body))
        # A tag of 12 bytes is the start of that of 16.
        head = self.cipher.encrypt(self._nonce(1), b"", length)[:12]
        sealed = self.cipher.encrypt(self._nonce(2), frame + body, length)
        self.number += 1
        return length + head + sealed

    def open(self, read: Callable[[int], bytes]) -> tuple[tuple[int, ...], bytes]:
        length, check = read(4), read(12)
        assert self.cipher.encrypt(self._nonce(1), b"", length)[:12] == check
        plain = self.cipher.decrypt(
            self._nonce(2), read(int.from_bytes(length, "little") + 16), length
        )
        self.number += 1
        return struct.unpack("<IIQQQ", plain[:32]), plain[32:]


class Connector:
    """The connecting side of a connection of one stream."""

    def __init__(self, handle: bytes, secret: str = SECRET) -> None:
        token, port = handle[8:24], struct.unpack(">H", handle[26:28])[0]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        own = X25519PrivateKey.generate()
        public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        hello = MAGIC + token + os.urandom(16) + os.urandom(32) + public + bytes([0, 1]) + bytes(6)
        self.socket.sendall(hello)
        answer = self.read(104)
        assert answer[:8] == MAGIC
        agreed = own.exchange(X25519PublicKey.from_public_bytes(answer[40:72]))
        salt = hashlib.sha256(hello + answer[:72]).digest()
        prk = _hmac(salt, agreed + _hmac(b"vitalstream net key 1", secret.rstrip().encode()))
        self.trusted = _hmac(_expand(prk, "listener confirms"), salt) == answer[72:]
        self.socket.sendall(_hmac(_expand(prk, "connector confirms"), salt))
        self.out = Way(_expand(prk, "records to listener"))
        self.back = Way(_expand(prk, "records to connector"))

    def read(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            part = self.socket.recv(count - len(got))
            assert part, "the listener closed"
            got += part
        return got


@pytest.fixture(scope="module")
def library(
    require: Callable[[str, bool, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The plug-in as it is shipped."""
    require("gcc", shutil.which("gcc") is not None, "no C compiler")
    require("OpenSSL", Path("/usr/include/openssl/evp.h").is_file(), "no libssl-dev")
    folder = tmp_path_factory.mktemp("plugin")
    path = folder / "libnccl-net-vitalstream.so"
    subprocess.run(["make", "-s", "-C", SOURCE, f"BUILD={folder}", path], check=True, timeout=200)
    return path


@pytest.fixture
def listening(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Table, ctypes.c_void_p, bytes]]:
    """The library's table, a listener of its on loopback and the listener's handle."""
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(SECRET)
    monkeypatch.setenv("VITALSTREAM_NET_KEY_FILE", str(key))
    monkeypatch.setenv("VITALSTREAM_NET_INTERFACE", "lo")
    table = Table.in_dll(ctypes.CDLL(str(library)), "ncclNetPlugin_v9")
    handle, listener = ctypes.create_string_buffer(128), ctypes.c_void_p()
    table.call("init", None)
    table.call("listen", 0, handle, ctypes.byref(listener))
    yield table, listener, handle.raw
    table.call("close_listen", listener)


def _accepted(table: Table, listener: ctypes.c_void_p) -> ctypes.c_void_p:
    comm, until = ctypes.c_void_p(), time.monotonic() + PATIENCE_S
    while not comm:
        table.call("accept", listener, ctypes.byref(comm), None)
        assert time.monotonic() < until
    return comm


def _receive(
    table: Table, comm: ctypes.c_void_p, size: int, tag: int
) -> tuple[ctypes.Array[ctypes.c_char], ctypes.c_void_p]:
    buffer, request = ctypes.create_string_buffer(size), ctypes.c_void_p()
    data = (ctypes.c_void_p * 1)(ctypes.addressof(buffer))
    sizes, tags, mrs = (ctypes.c_size_t * 1)(size), (ctypes.c_int * 1)(tag), (ctypes.c_void_p * 1)()
    table.call("irecv", comm, 1, data, sizes, tags, mrs, ctypes.byref(request))
    assert request
    return buffer, request


def test_a_second_implementation_is_understood(
    listening: tuple[Table, ctypes.c_void_p, bytes],
) -> None:
    """Handshake, grant, a message in two chunks the wrong way round, goodbyes: as written down."""
    table, listener, handle = listening
    connector = Connector(handle)
    assert connector.trusted
    comm = _accepted(table, listener)
    buffer, request = _receive(table, comm, 100, tag=-7)

    frame, body = connector.back.open(connector.read)
    assert frame[0] == GRANT and struct.unpack("<iIQ", body) == (-7, 0, 100)
    place, group = frame[1] << 8, frame[2]
    connector.socket.sendall(connector.out.seal(DATA, place, group, 6, 11, b"world"))
    connector.socket.sendall(connector.out.seal(DATA, place, group, 0, 11, b"hello "))
    done, size, until = ctypes.c_int(), ctypes.c_int(), time.monotonic() + PATIENCE_S
    while not done.value:
        table.call("test", request, ctypes.byref(done), ctypes.byref(size))
        assert time.monotonic() < until

    assert buffer.raw[: size.value] == b"hello world"
    table.call("close_recv", comm)
    assert connector.back.open(connector.read)[0][0] == GOODBYE
    connector.socket.close()


@pytest.mark.parametrize(
    "claim",
    [
        (DATA, 0, 1, 0, 4),  # a receive that was never posted
        (DATA, 1 << 8, 0, 0, 4),  # another place
        (DATA, 1, 0, 0, 4),  # a second buffer of a receive of one
        (DATA, 255 << 8, 0, 0, 4),  # a place that does not exist
        (DATA, 0, 0, 97, 101),  # more than the buffer holds
        (DATA, 0, 0, 8, 10),  # beyond the message's own end
        (DATA, 0, 0, 2**64 - 2, 100),  # an offset that wraps around
        (GRANT, 0, 0, 0, 4),  # a grant from the side that is granted to
        (9, 0, 0, 0, 4),  # no kind at all
    ],
)
def test_an_authenticated_peer_cannot_write_where_nothing_was_granted(
    listening: tuple[Table, ctypes.c_void_p, bytes], claim: tuple[int, int, int, int, int]
) -> None:
    """A peer with the key that claims too much ends the connection, and no byte is written."""
    table, listener, handle = listening
    connector = Connector(handle)
    comm = _accepted(table, listener)
    buffer, request = _receive(table, comm, 100, tag=0)
    connector.back.open(connector.read)

    connector.socket.sendall(connector.out.seal(*claim, b"evil"))

    test = ctypes.CFUNCTYPE(ctypes.c_int)(table.test)
    done, until = ctypes.c_int(), time.monotonic() + PATIENCE_S
    while (result := test(request, ctypes.byref(done), None)) == 0:
        assert not done.value and time.monotonic() < until
    assert result == 6  # ncclRemoteError
    assert buffer.raw == bytes(100)
    table.call("close_recv", comm)
    connector.socket.close()


def test_nothing_of_a_message_can_be_read_on_the_way(
    listening: tuple[Table, ctypes.c_void_p, bytes],
) -> None:
    """Who has another secret is not trusted, and opens nothing of what is sent."""
    _, _, handle = listening
    stranger = Connector(handle, "another secret, as long as the first one")

    assert not stranger.trusted
    with pytest.raises((AssertionError, InvalidTag, ConnectionError)):
        stranger.back.open(stranger.read)
    stranger.socket.close()
