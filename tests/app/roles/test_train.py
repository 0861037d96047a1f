"""`vitalstream train` by processes of this machine, from archives to weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import checkpoint

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("spread", [["--spread-experts"], []], ids=["experts", "batches"])
def test_ranks_train_together_from_the_command_line(
    recorded: Any, tmp_path: Path, spread: list[str]
) -> None:
    """Two ranks, whose experts are spread or whose batches are shared, write what one process
    writes: weights that are loaded, their card and what was told out of fold.
    """
    recorded.physionet2012(tmp_path / "data" / "physionet2012", stays=24)
    out = tmp_path / "out"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "app.cli", "train", "--data", str(tmp_path / "data")),
            *("--out", str(out), "--sets", "physionet2012", "--quick"),
            *("--limit", "8000"),
            *("--ranks", "2", *spread),
        ],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("VITALSTREAM_")},
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert done.returncode == 0, done.stderr
    _, version = checkpoint.load(out / "model.safetensors")
    assert json.loads((out / "card.json").read_text())["version"] == version
    assert (out / "predictions.npz").exists()
    assert done.stderr.count("trained  ") == 1, "the first rank alone writes"
