"""What the compiler says that the kernels need, as it is written down."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

CUDA = Path(__file__).parents[2] / "cuda"
NVCC = CUDA / "build/toolchain/nvidia/cu13/bin/nvcc"
ARCHS = {"sm_80", "sm_90", "sm_100"}


def rows(text: str) -> dict[tuple[str, str], list[int]]:
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {(arch, name): [int(n) for n in numbers] for arch, name, *numbers in lines}


def test_every_kernel_is_written_down_for_every_device_and_none_spills() -> None:
    """Registers within the limit, no stack, no spills, shared memory that any device has."""
    source = "".join(path.read_text() for path in CUDA.glob("*.cu"))
    kernels = set(
        re.findall(r"__global__\s+void\s+(?:__launch_bounds__\(\w+\)\s+)?(\w+)\(", source)
    )

    table = rows((CUDA / "resources.txt").read_text())

    assert set(table) == {(arch, kernel) for arch in ARCHS for kernel in kernels}
    for (arch, kernel), (registers, stack, stores, loads, shared) in table.items():
        assert (stack, stores, loads) == (0, 0, 0), f"{kernel} spills on {arch}"
        assert registers <= 128, f"{kernel} on {arch}"
        assert shared <= 48 * 1024, f"{kernel} on {arch}"


def test_what_is_written_down_is_what_the_compiler_says(
    require: Callable[..., None], tmp_path: Path
) -> None:
    """Compiled anew with the nvcc that `make test` fetches; the test itself never fetches it."""
    require("nvcc", NVCC.exists(), "not fetched: make nvcc")
    table = tmp_path / "resources.txt"
    command = ["make", "-s", "-C", str(CUDA), "resources", f"BUILD={tmp_path}", f"NVCC={NVCC}"]

    subprocess.run([*command, f"RESOURCES={table}"], check=True, timeout=300)

    assert rows(table.read_text()) == rows((CUDA / "resources.txt").read_text())
