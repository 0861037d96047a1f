"""The kernels on the CPU: built once a session, under sanitizers and without."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models import ops

CUDA = Path(__file__).parents[2] / "cuda"
Call = tuple[str, list[Any]]


def build(require: Callable[..., None], folder: Path, target: str) -> Path:
    require("g++", shutil.which("g++") is not None, "no C++ compiler")
    require("make", shutil.which("make") is not None, "no make")
    command = ["make", "-s", "-C", str(CUDA), f"BUILD={folder}", f"{folder}/{target}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / target


@pytest.fixture(scope="session")
def host_library(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels as a library for the CPU, optimised."""
    folder = tmp_path_factory.mktemp("kernels")
    return build(require, folder, "libvitalstream_kernels_host.so")


@pytest.fixture
def loaded(host_library: Path) -> Iterator[str]:
    """The operators run the kernels on the CPU while the test runs."""
    yield ops.load(host_library)
    ops.load(None)


@pytest.fixture(scope="session")
def sanitized(
    require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[list[Call]], list[list[Any]]]:
    """Runs calls in a process with both sanitizers; gives each call's arguments back."""
    folder = tmp_path_factory.mktemp("sanitized")
    library = build(require, folder, "libvitalstream_kernels_sanitized.so")
    names = ["libasan.so", "libubsan.so"]
    found = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        for name in names
    ]
    require("sanitizers", all(Path(one).is_absolute() for one in found), "no libasan or libubsan")

    def run(calls: list[Call]) -> list[list[Any]]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("caller.py")), str(library)],
            input=pickle.dumps(calls),
            capture_output=True,
            timeout=120,
            env={
                "LD_PRELOAD": " ".join(found),
                "ASAN_OPTIONS": "detect_leaks=0",
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
        assert done.returncode == 0, done.stderr.decode()[-4000:]
        result: list[list[Any]] = pickle.loads(done.stdout)
        return result

    return run
