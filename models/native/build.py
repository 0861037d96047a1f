"""Builds the serving engine for this machine's processor, and finds what was built.

    python models/native/build.py

The file's name is a digest of the sources, the compiler's options and the processor's features, so
that a library of another edition or another machine is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
BUILT: Final = HERE / "built"
SOURCES: Final = (
    *("features.cpp", "derived.cpp", "network.cpp", "forest.cpp", "predict.cpp"),
    *("scores.cpp", "write.cpp"),
)
_OPTIONS: Final = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-Werror", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math"),
)
_FUSED: Final = {"features.cpp": "-ffp-contract=off"}
"""Features have the reference's bits; everything else may fuse multiplication and addition."""


class CannotBuild(RuntimeError):
    """There is no C++ compiler, or it refused."""


def _processor() -> str:
    """What the compiler's choice of instructions depends on."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def expected() -> Path:
    """Where this edition's library for this machine is, once it is built."""
    said = hashlib.sha256(f"{platform.machine()} {_processor()} {_OPTIONS} {_FUSED}".encode())
    for name in ("engine.hpp", *SOURCES):
        said.update((HERE / name).read_bytes())
    return BUILT / f"serve-{said.hexdigest()[:16]}.so"


def compiler() -> str | None:
    """The C++ compiler, `c++` or one of its usual names."""
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    return None


def build() -> Path:
    """Build the library unless it is there; returns its path.

    Raises:
        CannotBuild: No compiler, or it failed.
    """
    path = expected()
    if path.exists():
        return path
    command = compiler()
    if command is None:
        raise CannotBuild("no C++ compiler (Debian: apt-get install g++)")
    BUILT.mkdir(exist_ok=True)
    stem = path.with_suffix(f".{os.getpid()}")
    objects = []
    for name in SOURCES:
        made = stem.with_suffix(f"{stem.suffix}.{name}.o")
        compiled(command, name, made)
        objects.append(made)
    part = stem.with_suffix(f"{stem.suffix}.part")
    _run([command, "-shared", "-o", str(part), *map(str, objects)])
    for made in objects:
        made.unlink()
    part.replace(path)
    for old in BUILT.glob("serve-*.so"):
        if old != path:
            old.unlink()
    return path


def compiled(command: str, name: str, made: Path, more: Sequence[str] = ()) -> None:
    """Compile one source.

    Raises:
        CannotBuild: The compiler refused.
    """
    fused = _FUSED.get(name, "-ffp-contract=fast")
    _run([command, *_OPTIONS, fused, *more, "-c", str(HERE / name), "-o", str(made)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{' '.join(command)}\n{done.stderr}")


def main() -> int:
    """Build; without a compiler say so and go on."""
    try:
        build()
    except (CannotBuild, OSError) as error:
        print(f"serving engine not built, PyTorch will serve on the CPU: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
