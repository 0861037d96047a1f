"""Which patients train, calibrate and test: by a hash of set and record, the same for everyone."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

from models.data import Stay

Part = Literal["train", "calibrate", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "calibrate", "test")
SHARES: Final = (0.70, 0.15, 0.15)
RULE: Final = (
    "first 8 bytes of SHA-256 of 'set/record' ('set/hospital' for eICU): 70 % train, 15 % "
    "calibrate, 15 % test"
)
_BY_HOSPITAL: Final = ("eicu-demo",)

FOLDS: Final = 5
"""Of cross-validation."""


def fraction_of(text: str) -> float:
    """A number from 0 to 1 that a text stands for, the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def _key(stay: Stay) -> str:
    """Set and record, for eICU set and hospital; needs the stay's labels there."""
    key = stay.record
    if stay.set_name in _BY_HOSPITAL and stay.labels is not None and stay.labels.hospital:
        key = stay.labels.hospital
    return f"{stay.set_name}/{key}"


def fold_of(stay: Stay) -> int:
    """The fold of a patient, for eICU of a hospital; has nothing to do with the part."""
    return int(fraction_of(f"fold/{_key(stay)}") * FOLDS)


def part_of(stay: Stay) -> Part:
    """The part of a patient, for eICU of a hospital; needs the stay's labels there."""
    at = fraction_of(_key(stay))
    if at < SHARES[0]:
        return "train"
    return "calibrate" if at < SHARES[0] + SHARES[1] else "test"
