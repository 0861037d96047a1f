"""The encrypted plug-in beside a plain TCP stream, and which way the ranks of this machine take."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import torch

from models.parallel.measured import Row
from models.parallel.transport import choose, probe

SOURCE: Final = Path(__file__).parents[2] / "cuda" / "nccl_net"
SYSTEM: Final = "transport"
SIZES: Final = ((64 << 20, 8), (1 << 20, 128), (64 << 10, 256))
"""Bytes of a message, and how many of them a round sends."""
_ROUNDS: Final = 5


def measure(
    device: str = "cpu", world: int = 2, sizes: Sequence[tuple[int, int]] = SIZES
) -> list[Row]:
    """Build the plug-in and its harness, and let two processes send; needs gcc, make, libssl-dev.

    Args:
        device: "cpu" or "cuda": what the choice is made for.
        world: Ranks, one a CUDA device where there are so many.
        sizes: Bytes of a message, and messages a round.

    Returns:
        The choice, which moves nothing, and a row for each size. `ratio` is the plug-in's share of
        plain TCP's throughput; the note gives the same of processor time, which other work on the
        machine disturbs less.
    """
    rows = [_chosen(device, world)]
    missing = [tool for tool in ("gcc", "make") if shutil.which(tool) is None]
    if missing:
        note = f"not measured: no {' and no '.join(missing)}"
        return [*rows, _row("encrypted plug-in", 0, 0.0, None, None, note)]
    with tempfile.TemporaryDirectory() as folder:
        targets = (f"{folder}/plain/harness", f"{folder}/libnccl-net-vitalstream.so")
        built = subprocess.run(
            ["make", "-s", "-C", SOURCE, f"BUILD={folder}", *targets],
            capture_output=True,
            text=True,
        )
        if built.returncode != 0:
            note = f"not measured: {built.stderr.strip().splitlines()[0]}"
            return [*rows, _row("encrypted plug-in", 0, 0.0, None, None, note)]
        rows += [_beside_tcp(targets, size, messages) for size, messages in sizes]
    return rows


def _chosen(device: str, world: int) -> Row:
    count = torch.cuda.device_count() if device == "cuda" else 0
    seen = [probe(f"cuda:{rank % count}" if count > 0 else "cpu") for rank in range(max(1, world))]
    choice = choose(seen)
    case = f"choice for {world} ranks here: {choice.backend}"
    return _row(case, None, 0.0, None, None, "; ".join(choice.reasons))


def _beside_tcp(programs: Sequence[str], size: int, messages: int) -> Row:
    said = subprocess.run(
        [*programs, "speed", str(size), str(messages), str(_ROUNDS)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    rounds = [json.loads(line) for line in said.splitlines()]
    wall, tcp, cpu, tcp_cpu = (
        median(float(one[name]) for one in rounds)
        for name in ("plugin_ms", "tcp_ms", "plugin_cpu_ms", "tcp_cpu_ms")
    )
    share = median(one["tcp_ms"] / one["plugin_ms"] for one in rounds)
    note = f"processor time {cpu:.0f} ms beside {tcp_cpu:.0f} ms; rounds in turns, medians"
    case = f"AES-256-GCM, {messages} messages of {size >> 10} KiB, loopback"
    return _row(case, size * messages, wall, tcp, share, note)


def _row(
    case: str,
    sent: int | None,
    time_ms: float,
    beside_ms: float | None,
    ratio: float | None,
    note: str,
) -> Row:
    return Row(
        system=SYSTEM,
        case=case,
        reference_error=None,
        bytes=sent,
        time_ms=time_ms,
        beside="plain TCP stream" if beside_ms is not None else "",
        beside_ms=beside_ms,
        ratio=ratio,
        note=note,
    )
