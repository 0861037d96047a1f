"""Recorded sets by name: one iterator of stays, whatever the set is packed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import structlog

from models.data import eicu, physionet2012, physionet2019, small
from models.data.stays import BadRecord, Stay

log = structlog.get_logger(__name__)

Reader = Callable[[Iterable[Path], bool, Callable[[BadRecord], None]], Iterator[Stay]]

SETS: Final[dict[str, Reader]] = {
    physionet2012.NAME: physionet2012.read,
    physionet2019.NAME: physionet2019.read,
    eicu.NAME: eicu.read,
    small.BIDMC: small.read_bidmc,
    small.PHYSIONET2009: small.read_physionet2009,
}


class RecordedSet:
    """Stays of one set, in the files' order; each iteration reads the files again.

    A record that cannot be read costs itself: it is logged, left out, and kept in `bad`.

    Args:
        name: One of `SETS`.
        paths: Archives, folders of archives, unpacked folders, or single records.
        labels: Whether to read what happened; without it outcomes are not even opened.

    Raises:
        ValueError: An unknown set.
    """

    def __init__(self, name: str, paths: Iterable[Path | str], *, labels: bool = False) -> None:
        if name not in SETS:
            raise ValueError(f"unknown set {name!r}, expected one of {', '.join(SETS)}")
        self.name = name
        self.paths = tuple(Path(path) for path in paths)
        self.bad: list[BadRecord] = []
        self._labels = labels

    def __iter__(self) -> Iterator[Stay]:
        self.bad.clear()
        seen: set[str] = set()
        for stay in SETS[self.name](self.paths, self._labels, self._reject):
            if stay.record in seen:
                self._reject(BadRecord(stay.record, None, "this record was read before"))
                continue
            seen.add(stay.record)
            yield stay

    def _reject(self, error: BadRecord) -> None:
        self.bad.append(error)
        log.warning("record left out", set=self.name, error=str(error))


def open_set(name: str, paths: Iterable[Path | str], *, labels: bool = False) -> RecordedSet:
    """Open a recorded set for iteration; see `RecordedSet`."""
    return RecordedSet(name, paths, labels=labels)


def read_all(name: str, paths: Iterable[Path | str], *, labels: bool = False) -> list[Stay]:
    """All stays of a set, in memory. Raises ValueError where none could be read."""
    opened = open_set(name, paths, labels=labels)
    stays = list(opened)
    if not stays:
        raise ValueError(f"{name}: no record could be read from the files given")
    return stays
