"""The running service says what the offline evaluation says of the same hours."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.data import open_set
from models.predictor import load

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


async def test_every_replayed_hour_has_the_offline_probabilities(
    stream: Any, tmp_path: Path
) -> None:
    """Hourly and irregular stays, replayed through Kafka and a worker of the shipped weights."""
    online = _module(ROOT / "load_tests" / "online_offline.py")
    writer = _module(ROOT / "tests" / "support" / "recorded_sets.py")
    sets = {
        "physionet2019": writer.physionet2019(tmp_path / "physionet2019", patients=4),
        "physionet2012": writer.physionet2012(tmp_path / "physionet2012", stays=4),
        "eicu-demo": writer.eicu(tmp_path / "eicu", stays=4),
    }
    predictor = load()
    expected = {
        stay.record: online.offline(predictor, stay)
        for name, path in sets.items()
        for stay in open_set(name, [path])
    }
    environment = {
        **os.environ,
        "VITALSTREAM_KAFKA": stream.servers,
        "VITALSTREAM_GROUP": stream.group,
        "VITALSTREAM_EMIT": "each",
        "OMP_NUM_THREADS": "1",
    }

    def start(log: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{log}.log").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "app.cli", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    worker = start("worker", "worker")
    try:
        for name, path in sets.items():
            replay = start(name, "replay", name, str(path), "--speed", "max")
            assert await asyncio.to_thread(replay.wait, 120) == 0
        with contextlib.closing(online.predictions(stream.servers, stream.partitions)) as said:
            result = await asyncio.to_thread(online.compare, expected, said, 90)
    finally:
        worker.terminate()
        await asyncio.to_thread(worker.wait, 30)
    log = (tmp_path / "worker.log").read_text()[-3_000:]
    assert result.patients == len(expected) >= 12
    assert result.holds, f"{result} {result.wrong}\n{log}"
