"""Ranks as local processes, what their sockets sent, and what a call took."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.parallel import bench, ranks, volumes_bench
from models.parallel.measured import Row

SENT = 300_000


def test_the_bytes_of_a_connection_are_those_that_the_kernel_sent() -> None:
    """Counted for whoever opened the socket, each once."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as other,
    ):
        before = ranks.socket_bytes()
        reader = threading.Thread(target=lambda: other.recv(SENT, socket.MSG_WAITALL))
        reader.start()
        client.sendall(bytes(SENT))
        reader.join()

        sent = ranks.socket_bytes() - before

    assert SENT <= sent < 1.1 * SENT


def test_a_call_s_peak_is_what_it_holds_at_once() -> None:
    """Two tensors in turn count once; what was held before does not count."""

    def call() -> None:
        for _ in range(2):
            torch.ones(10_000_000)

    peak = ranks.peak_bytes(call, torch.device("cpu"))

    assert 35e6 < peak < 60e6


def _small(device: torch.device, add: int) -> tuple[int, list[Row]]:
    total = torch.tensor([dist.get_rank() + add], device=device)
    dist.all_reduce(total)
    volumes_bench.SHAPE = (1, 12, 10, 8)  # type: ignore[misc]
    return int(total), volumes_bench.measure(device)


def _waits(_: int, pipe: str) -> None:
    Path(pipe).write_text(f"{os.getpid()}\n")
    signal.pause()


@pytest.mark.parametrize("forked", [True, False])
def test_ranks_end_with_the_process_that_started_them(forked: bool, tmp_path: Path) -> None:
    """Also where it is killed: none is left behind, waiting for the others."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    here, root = Path(__file__).parent, Path(__file__).parents[3]
    script = tmp_path / "starts.py"
    script.write_text(
        f"import {__name__} as here\n"
        "if __name__ == '__main__':\n"
        f"    here.ranks.start(here._waits, 1, {str(pipe)!r}, forked={forked})\n"
    )
    main = subprocess.Popen(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": f"{root}:{here}"}
    )
    try:
        rank = os.pidfd_open(int(pipe.read_text()))
        main.kill()
        ended = select.select([rank], [], [], 20)[0]
        os.close(rank)
    finally:
        main.kill()
        main.wait()
    assert ended


def test_ranks_work_together_and_a_reshard_is_measured_against_its_reference() -> None:
    """Two real processes over gloo: exact, and no byte more than must move, but the mask's bits."""
    total, (whole, body) = ranks.run(_small, 2, 10)

    assert total == 21
    assert whole.reference_error == body.reference_error == 0.0
    assert whole.bytes == 12 * 10 * 8 * 4 // 2
    assert body.bytes < whole.bytes
    assert whole.ratio == pytest.approx(whole.beside_ms / whole.time_ms)


def test_a_secure_sum_is_measured_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is right to half a step of the fixed point, in the bytes that were promised."""
    monkeypatch.setattr(bench.federated_bench, "SIZE", 20_000)

    ((name, (row, whole, tight, quarter, private)),) = bench.run(["secure-sum"], 2)

    assert name == "secure-sum"
    assert row.reference_error < 5e-9
    assert row.bytes < 31 / 8 * 20_000 + 2_000 < whole.bytes
    assert tight.bytes < whole.bytes * 3 / 4 + 2_000
    assert quarter.bytes < row.bytes / 4 + 2_000
    assert private.reference_error is None
