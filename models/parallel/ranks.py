"""Ranks as local processes, and the bytes that left their sockets."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

_BYTES_SENT: Final = 200
"""Offset of `tcpi_bytes_sent` in Linux's `struct tcp_info`, since 4.19."""
_MAX_PACING_RATE: Final = 47
_PRELOADED: Final = ["models.parallel.bench", "models.parallel.hospitals", "models.parallel.spread"]
"""What ranks of this package need, but for a little."""


def run(work: Callable[..., Any], world: int, *arguments: Any, device: str = "cpu") -> Any:
    """Call `work(device, *arguments)` on ranks that are processes of this machine.

    Args:
        work: A module's function, a collective of all ranks.
        world: How many.
        arguments: For each of them the same, picklable.
        device: "cpu" joins them by gloo over loopback, "cuda" by NCCL, a device each.

    Returns:
        What rank 0 returned.

    Raises:
        RuntimeError: Fewer devices than ranks.
    """
    if device == "cuda" and torch.cuda.device_count() < world:
        raise RuntimeError(f"{torch.cuda.device_count()} CUDA devices for {world} ranks")
    with tempfile.TemporaryDirectory() as folder:
        start(_rank, world, world, folder, device, work, arguments, forked=device == "cpu")
        return torch.load(Path(folder) / "said", weights_only=False)


def start(work: Callable[..., Any], world: int, *arguments: Any, forked: bool = True) -> None:
    """Call `work(rank, *arguments)` in as many processes; returns when all have ended well.

    They end with this process, however it ends.

    Args:
        work: A module's function.
        world: How many.
        arguments: For each of them the same, picklable.
        forked: From one process that has imported all of this once, instead of anew: seconds less
            for each rank. They have the environment that this process had when it first started
            any. CUDA does not bear it.

    Raises:
        torch.multiprocessing.ProcessRaisedException: One failed; the others are ended.
    """
    if forked:
        get_context("forkserver").set_forkserver_preload(_PRELOADED)
    method = "forkserver" if forked else "spawn"
    start_processes(_watched, (work, arguments), nprocs=world, start_method=method)  # type: ignore[no-untyped-call]


def _watched(rank: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Work, and end when the process that asked for it has ended: the one that forked lives on."""
    Thread(target=_end_with_parent, daemon=True).start()
    work(rank, *arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _rank(
    rank: int,
    world: int,
    folder: str,
    device: str,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    place = torch.device(device, rank) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
    )
    try:
        said = work(place, *arguments)
        if rank == 0:
            torch.save(said, Path(folder) / "said")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def timed(
    call: Callable[[], Any], device: torch.device, repeats: int, warm: int = 1
) -> list[float]:
    """Wall times in ms of a collective call, each from a common start to the slowest rank's end."""
    times = []
    for turn in range(warm + repeats):
        dist.barrier()
        _finish(device)
        start = time.perf_counter()
        call()
        _finish(device)
        took = torch.tensor([(time.perf_counter() - start) * 1e3], device=device)
        dist.all_reduce(took, dist.ReduceOp.MAX)
        if turn >= warm:
            times.append(float(took))
    return times


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sockets() -> list[socket.socket]:
    """This process's connected TCP sockets, whoever opened them; copies that must be closed."""
    found, seen = [], set()
    for name in Path("/proc/self/fd").iterdir():
        try:
            # A copy may get the number that the folder itself had while it was listed.
            inode = name.stat().st_ino
            if inode in seen or not name.is_socket():
                continue
            seen.add(inode)
            one = socket.socket(fileno=socket.dup(int(name.name)))
        except OSError:  # closed since
            continue
        tcp = one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM
        if tcp and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0:
            found.append(one)
        else:
            one.close()
    return found


def socket_bytes() -> int:
    """Bytes that this process's open TCP connections have sent, as the kernel counts them: with
    every header of the library above TCP, without TCP's own. Linux only.
    """
    total = 0
    for one in _sockets():
        with one:
            said = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(said) >= _BYTES_SENT + 8:
                total += struct.unpack_from("<Q", said, _BYTES_SENT)[0]
    return total


def pace(bits_per_s: int | None) -> None:
    """Let the kernel send no faster on each of this process's open TCP connections; None: freely.

    A ring collective sends on one connection a rank: its pace is the rank's uplink.
    """
    rate = 2**32 - 1 if bits_per_s is None else bits_per_s // 8
    for one in _sockets():
        with one:
            one.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, struct.pack("=I", rate))


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Memory that a call takes at its most above what was held before: the device's, or on the
    CPU the process's resident memory (Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # What is free but still held would hide what the call takes; then the peak starts anew.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def total(value: float, device: torch.device) -> float:
    """The sum of a number over all ranks."""
    summed = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return float(summed)
