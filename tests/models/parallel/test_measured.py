"""What was measured, as a table."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from models.parallel.measured import Row, in_units, table


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.00 GiB")]
)
def test_bytes_are_told_in_a_unit_that_fits(count: int, said: str) -> None:
    """Binary units, as memory is counted."""
    assert in_units(count) == said


def test_a_table_says_every_row_and_leaves_out_what_was_not_measured() -> None:
    """A dash stands for None; the note stands below the case."""
    row = Row(
        system="reshard",
        case="whole volume",
        reference_error=None,
        bytes=2048,
        time_ms=1.5,
        beside="all-gather",
        beside_ms=None,
        ratio=2.25,
        note="calculated",
    )
    out = io.StringIO()

    Console(file=out, width=120).print(table([row, row], "here"))

    said = out.getvalue()
    for part in ("here", "whole volume", "calculated", "2.0 KiB", "1.50", "2.25", "–"):
        assert part in said
    assert said.count("reshard") == 1
