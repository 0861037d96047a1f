"""A hospital's own rows: recorded sets, or a file of rows that it made itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from models.network import Network
from models.training.cache import SETS, Table, build, folder_of
from models.training.evaluate import part, without_outcome

ROWS: Final = "rows.npz"


def parts_of(data: Path, cache: Path, network: Network) -> tuple[Table, Table]:
    """A hospital's rows for training and for calibration.

    Raises:
        ValueError: The folder has neither `rows.npz` nor a recorded set.
    """
    if (data / ROWS).exists():
        table = read(data / ROWS)
    else:
        sets = tuple(name for name in SETS if folder_of(data, name).is_dir())
        if not sets:
            raise ValueError(f"{data} has neither {ROWS} nor a recorded set")
        table = build(data, cache, sets, None, network.features, fit_typical=False)
        table = without_outcome(table)
    return part(table, "train"), part(table, "calibrate")


def rows_of(data: Path, cache: Path, network: Network) -> Table:
    """A hospital's training rows. Raises ValueError as `parts_of`."""
    return parts_of(data, cache, network)[0]


def write(path: Path, table: Table) -> None:
    """Keep rows as a file of arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **{name: getattr(table, name) for name in Table.__slots__})


def read(path: Path) -> Table:
    """Rows of `write`."""
    with np.load(path) as found:
        return Table(**{name: found[name] for name in Table.__slots__})
