"""The bench of the transport moves bytes between real processes beside plain TCP."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models.parallel.transport_bench import measure


def test_a_row_for_the_choice_and_one_for_each_size(
    require: Callable[[str, bool, str], None],
) -> None:
    """Both sides of a row come from the same run."""
    require("gcc", shutil.which("gcc") is not None, "no C compiler")
    require("OpenSSL", Path("/usr/include/openssl/evp.h").is_file(), "no libssl-dev")

    choice, moved = measure(sizes=((1 << 16, 4),))

    assert "gloo" in choice.case and "2 of 2 ranks" in choice.note
    assert moved.bytes == 4 << 16
    assert moved.time_ms > 0 and moved.beside_ms and moved.ratio
    assert "processor time" in moved.note


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that only serves has none, and the other rows still come."""
    monkeypatch.setattr(shutil, "which", lambda _: None)

    choice, moved = measure()

    assert "gloo" in choice.case
    assert moved.note == "not measured: no gcc and no make" and moved.ratio is None
