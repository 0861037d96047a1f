"""The engine under AddressSanitizer and UBSan: it reads and writes nothing that is not its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from models.native import build

_RUN = """
import dataclasses, importlib.util, sys
from pathlib import Path
import numpy as np, torch
import models.native, models.native.writer

def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

built, conftest, writer = map(Path, sys.argv[1:])
models.native.expected = models.native.writer.expected = lambda: built
from models.checkpoint import Calibrated
from models.predictor import Predictor
conftest, writer = load("conftest", conftest), load("test_writer", writer)
model = Calibrated(trees=conftest._trees(3))
model.calibration.blend[:, 1] = 0.5
predictor = Predictor(model, "test", engine="native", threads=2)
ward, store = conftest.Ward(), predictor.store(24)
for slot in range(24):
    ward.feed(store, slot, ward.stay(slot, hours=1 + slot * 3 % 90))
for bins in (None, 72):
    said = predictor.predict(store.gather(np.arange(24, dtype=np.int32), bins))
    assert np.isfinite(said.p).all()
for seed in range(30):
    drawn = writer.drawn(seed, seed % 9)
    fields = {f.name: getattr(drawn, f.name) for f in dataclasses.fields(drawn)}
    models.native.writer.Writer()(fields)
print("clean")
"""


def test_the_engine_is_clean(require, tmp_path: Path) -> None:
    """Windows of every length, padded and not, trees of uneven depth, and any numbers as text."""
    compiler = build.compiler()
    require("C++ compiler", compiler is not None, "Debian: apt-get install g++")
    assert compiler is not None
    checks = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g")
    objects = []
    for name in build.SOURCES:
        made = tmp_path / f"{name}.o"
        build.compiled(compiler, name, made, checks)
        objects.append(str(made))
    built = tmp_path / "engine.so"
    subprocess.run([compiler, "-shared", checks[0], "-o", str(built), *objects], check=True)
    said = [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _RUN, built, here.parent / "conftest.py", here / "test_writer.py"],
        cwd=here.parents[2],
        env=os.environ
        | {"LD_PRELOAD": ":".join(said), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "clean", done.stderr[-4000:]
