"""Files that are whole or absent, whenever the process or the machine stops."""

from __future__ import annotations

import os
from pathlib import Path


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file in one step; readable by its owner only unless `mode` says more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
