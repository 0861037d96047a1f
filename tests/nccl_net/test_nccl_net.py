"""The encrypted network plug-in for NCCL, driven by its harness between real processes."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "cuda" / "nccl_net"
SANITIZERS = {"address": "libasan.so", "thread": "libtsan.so"}
Build = Callable[..., Path]
HOSTILE = [
    "wrong key",
    "hello changed",
    "answer changed",
    "confirmation changed",
    "byte changed",
    "length changed",
    "record repeated",
    "record left out",
    "records swapped",
    "stream cut in a record",
    "stream ended between records",
    "grant changed",
    "strangers call",
    "stranger answers",
]


@pytest.fixture(scope="module")
def build(
    require: Callable[[str, bool, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Build:
    """Makes targets of the plug-in's Makefile in a folder of their own."""
    for tool in ("gcc", "make"):
        require(tool, shutil.which(tool) is not None, "no C compiler")
    require("OpenSSL", Path("/usr/include/openssl/evp.h").is_file(), "no libssl-dev")
    folder = tmp_path_factory.mktemp("nccl_net")

    def make(*targets: str) -> Path:
        done = subprocess.run(
            ["make", "-s", "-C", SOURCE, f"BUILD={folder}", *(f"{folder}/{t}" for t in targets)],
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return folder

    return make


def harness(folder: Path, what: str, **environment: str) -> str:
    """Runs the harness of a build; gives what it says."""
    done = subprocess.run(
        [folder / "harness", folder / "libnccl-net-vitalstream.so", what],
        capture_output=True,
        text=True,
        timeout=200,
        env={"TSAN_OPTIONS": "halt_on_error=1", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    assert "Sanitizer" not in done.stderr, done.stderr[-6000:]
    return done.stdout


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_whole_table_keeps_its_contract_under_sanitizers(
    build: Build, sanitizer: str, require: Callable[[str, bool, str], None]
) -> None:
    """Every size, many in flight, kills, misuse and every kind of meddling, in all versions."""
    library = subprocess.check_output(
        ["gcc", f"-print-file-name={SANITIZERS[sanitizer]}"], text=True
    ).strip()
    require(sanitizer, Path(library).is_absolute(), f"no {SANITIZERS[sanitizer]}")
    folder = build(f"{sanitizer}/harness", f"{sanitizer}/libnccl-net-vitalstream.so")

    said = harness(folder / sanitizer, "all")

    passed = re.findall(r"^(.*): as it should be$", said, re.MULTILINE)
    assert {f"{what}, version {v}" for what in ("sizes", "many") for v in (9, 10, 11)} <= set(
        passed
    )
    assert {*HOSTILE, "sender killed", "receiver killed", "standing still"} <= set(passed)
    assert {"opened by OpenSSL", "sealed by OpenSSL"} <= set(passed)


@pytest.mark.parametrize("what", ["byte changed", "length changed", "grant changed", "many"])
def test_openssl_alone_proves_as_much(build: Build, what: str) -> None:
    """Where the multi-buffer library is not used, on processors without wide instructions, say."""
    folder = build("address/harness", "address/libnccl-net-vitalstream.so")
    said = harness(folder / "address", what, VITALSTREAM_NET_WIDE="0")
    assert f"{what}" in said and "as it should be" in said


def test_device_memory_is_only_reached_by_the_drivers_copies(build: Build) -> None:
    """With a driver whose device memory faults on any other access, messages arrive whole."""
    folder = build("address/harness", "address/libnccl-net-vitalstream.so", "driver/libcuda.so.1")

    said = harness(folder / "address", "device", LD_LIBRARY_PATH=str(folder / "driver"))

    assert said == "device: as it should be\n"


def test_throughput_is_measured_beside_plain_tcp(build: Build) -> None:
    """The bench gives wall and processor times of both, and moves what it says."""
    folder = build("plain/harness", "libnccl-net-vitalstream.so")

    said = subprocess.check_output(
        [folder / "plain/harness", folder / "libnccl-net-vitalstream.so", "speed", "1048576", "4"],
        text=True,
        timeout=100,
    )

    rows = [json.loads(line) for line in said.splitlines()]
    assert len(rows) == 3
    assert all(row["bytes"] == 1 << 20 and row["plugin_ms"] > 0 < row["tcp_ms"] for row in rows)


def nccl() -> Path | None:
    """torch's NCCL, where torch came with one."""
    found = find_spec("nvidia")
    roots = list(found.submodule_search_locations or []) if found else []
    return next((p for root in roots for p in Path(root).glob("nccl/lib/libnccl.so.2")), None)


def test_torchs_nccl_looks_for_the_tables_that_are_exported(build: Build) -> None:
    """NCCL takes the newest version that it knows and the library has: version 11, with torch's."""
    library = nccl()
    if library is None:
        pytest.skip("this torch has no NCCL")
    plugin = ctypes.CDLL(str(build("libnccl-net-vitalstream.so") / "libnccl-net-vitalstream.so"))
    version = ctypes.c_int()

    assert ctypes.CDLL(str(library)).ncclGetVersion(ctypes.byref(version)) == 0
    assert version.value >= 22400  # the first that knows version 9
    known = {int(v) for v in re.findall(rb"ncclNetPlugin_v(\d+)\0", library.read_bytes())}
    exported = {v for v in range(2, 20) if hasattr(plugin, f"ncclNetPlugin_v{v}")}
    assert exported == {9, 10, 11}
    assert exported <= known
    assert max(exported & known) == 11


def test_nothing_but_the_tables_is_exported(build: Build) -> None:
    """A plug-in shares its process with NCCL and torch: no name may meet another."""
    library = build("libnccl-net-vitalstream.so") / "libnccl-net-vitalstream.so"

    names = subprocess.check_output(["nm", "-D", "--defined-only", library], text=True)

    assert {line.split()[-1] for line in names.splitlines()} == {
        "ncclNetPlugin_v9",
        "ncclNetPlugin_v10",
        "ncclNetPlugin_v11",
    }
