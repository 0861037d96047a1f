"""The files of a recorded set, out of archives or folders, without unpacking to disk."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from models.data.stays import BadRecord

Wanted = Callable[[str], bool]


def members(
    paths: Iterable[Path], wanted: Wanted, bad: Callable[[BadRecord], None]
) -> Iterator[tuple[str, bytes]]:
    """Name (without folders) and content of each wanted file.

    An unreadable archive or file costs itself: it is handed to `bad`.

    Raises:
        FileNotFoundError: A path that does not exist.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            try:
                yield from _of(file, wanted)
            except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
                bad(BadRecord(str(file), None, f"cannot be read: {error}"))


def _of(file: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    if file.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(file) as archive:
            for entry in archive:
                name = PurePosixPath(entry.name).name
                if entry.isfile() and wanted(name):
                    opened = archive.extractfile(entry)
                    if opened is not None:
                        yield name, opened.read()
    elif file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive_zip:
            for info in archive_zip.infolist():
                name = PurePosixPath(info.filename).name
                if not info.is_dir() and wanted(name):
                    yield name, archive_zip.read(info)
    elif wanted(file.name):
        yield file.name, file.read_bytes()
