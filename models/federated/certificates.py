"""Certificates and roster of a federation, for trying out: Ed25519, one authority, one a hospital.

A hospital is known by its key: the roster, which every hospital holds itself, names the keys. The
authority only lets TLS work; what it signs besides is of no use to anyone. In earnest each hospital
makes its own key, and the roster is agreed on by people.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models.federated import files

SERVER: Final = "server"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DAYS: Final = 365


def make(
    folder: Path,
    names: Sequence[str],
    hosts: Sequence[str] = ("127.0.0.1",),
    *,
    now: datetime.datetime | None = None,
) -> None:
    """Write ca.pem, server.pem, roster.json and NAME.pem of each hospital, with .key files.

    Args:
        folder: A new one.
        names: Of the hospitals.
        hosts: Names and addresses of the server.
        now: When the certificates begin to hold, for a year; default: now.

    Raises:
        ValueError: A name is not fit, or there are fewer than three.
        FileExistsError: The folder has a roster already.
    """
    if len(set(names)) != len(names) or len(names) < 3:
        raise ValueError("a federation has three or more hospitals, each once")
    for name in names:
        if not _NAME.fullmatch(name) or name in (SERVER, "ca"):
            raise ValueError(f"{name!a} is not a name: lower-case letters, digits and ._-")
    if (folder / "roster.json").exists():
        raise FileExistsError(f"{folder} has a roster already")
    now = now or datetime.datetime.now(datetime.UTC)
    authority = Ed25519PrivateKey.generate()
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vitalstream trial authority")])
    signed = _builder(issuer, issuer, authority.public_key(), now).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    # Which of several authorities of one name has signed is told by their keys.
    known = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
    signed = signed.add_extension(known, critical=False)
    files.replace(folder / "ca.pem", _pem(signed.sign(authority, None)), 0o644)
    roster = {}
    for name in (SERVER, *names):
        key = Ed25519PrivateKey.generate()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        use = ExtendedKeyUsageOID.SERVER_AUTH if name == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(subject, issuer, key.public_key(), now).add_extension(
            x509.ExtendedKeyUsage([use]), critical=False
        )
        builder = builder.add_extension(by, critical=False)
        if name == SERVER:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        else:
            roster[name] = key.public_key().public_bytes_raw().hex()
        files.replace(folder / f"{name}.pem", _pem(builder.sign(authority, None)), 0o644)
        files.replace(
            folder / f"{name}.key",
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
    text = json.dumps({"hospitals": roster}, indent=1) + "\n"
    files.replace(folder / "roster.json", text.encode(), 0o644)


def read_roster(path: Path) -> dict[str, Ed25519PublicKey]:
    """Identity keys by name. Raises ValueError for a file that is no roster."""
    try:
        said = json.loads(path.read_text())["hospitals"]
        keys = {
            str(name): Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            for name, key in said.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no roster") from error
    if len({key.public_bytes_raw() for key in keys.values()}) != len(keys):
        raise ValueError(f"{path} names a key twice")
    return keys


def read_key(path: Path) -> Ed25519PrivateKey:
    """A private key. Raises ValueError for a file that is none."""
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is not an Ed25519 key")
    return key


def name_of(certificate: bytes, roster: dict[str, Ed25519PublicKey]) -> str | None:
    """Whose key a DER certificate carries."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return next((name for name, known in roster.items() if known == key), None)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
