"""What a bench of `models/parallel` measured: one row a case, and the rows as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

BYTES_STEP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured case of one system.

    Attributes:
        system: What was measured, in a word or two.
        case: Sizes and settings.
        reference_error: Largest absolute difference to the system's reference; 0 where bit-equal,
            None where the case has no numbers to compare.
        bytes: What went out over the wire, of all ranks together; None where nothing is sent.
        time_ms: Median wall time (or CPU time where `note` says so) of one call or step.
        beside: What was run beside it in the same run.
        beside_ms: Its time, of the same kind.
        ratio: What the case is for: how many times faster or smaller than what stands beside it.
        note: What the columns do not say, such as a line that is calculated instead of measured.
    """

    system: str
    case: str
    reference_error: float | None
    bytes: int | None
    time_ms: float
    beside: str
    beside_ms: float | None
    ratio: float | None
    note: str = ""


def table(rows: Iterable[Row], title: str) -> Table:
    """The rows for a terminal."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("system", overflow="fold")
    drawn.add_column("case", overflow="fold", min_width=40)
    for name in ("error", "bytes", "ms"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("beside", overflow="fold", max_width=20)
    for name in ("ms", "ratio"):
        drawn.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in rows:
        if before not in (None, row.system):
            drawn.add_section()
        drawn.add_row(
            row.system if row.system != before else "",
            Text.assemble(row.case, *([("\n" + row.note, "dim")] if row.note else [])),
            "–" if row.reference_error is None else f"{row.reference_error:.1e}",
            "–" if row.bytes is None else in_units(row.bytes),
            f"{row.time_ms:.2f}",
            row.beside,
            "–" if row.beside_ms is None else f"{row.beside_ms:.2f}",
            "–" if row.ratio is None else f"{row.ratio:.2f}",
        )
        before = row.system
    return drawn


def in_units(count: int) -> str:
    """A number of bytes for a reader: 3 significant places at least."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < BYTES_STEP:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= BYTES_STEP
    return f"{value:.2f} GiB"
