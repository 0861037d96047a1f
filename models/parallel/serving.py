"""A predictor whose specialists lie on several devices, each in a process of its own.

The stream sees one device. This process keeps windows, features, gate, trees and the general
expert; a batch's features go to the specialists and what they add comes back, for the rows as they
are and for what each would be without each of its signals (`models.explain`): one exchange a batch.
For models that do not fit on a device: the shipped one is faster as a copy on each.

Axes: B windows, X flat features, S signals, N experts, R risks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import silu

from models import checkpoint
from models.features import SLOW, VITAL_AT, D, E, F, V
from models.moe import EXPERTS, shares
from models.network import RISKS, flat
from models.parallel.specialists import SplitNetwork, expert_parallel
from models.predictor import Predictor
from models.serving import Raw, routed
from models.signals import COUNT

_WAIT: Final = timedelta(days=365)
"""For the next batch: a ward may be silent. A process that ends ends its connections at once."""


_BLOCK: Final = 32
"""Rows of an exchange."""


class HostLost(RuntimeError):
    """A process that holds specialists is gone."""


class Variants(nn.Module):
    """What an expert says of each row as it is, and had each signal never been measured.

    Args:
        expert: From features [n, X] to [n, R].
        absent: Features of a signal that was never measured, [D].
    """

    _mine: Tensor
    _gone: Tensor

    def __init__(self, expert: Callable[[Tensor], Tensor], absent: Tensor) -> None:
        super().__init__()
        self._expert = expert
        size = COUNT * D + V * E + F
        # Which features each variant lacks, and what stands in their place; none lacks the first.
        mine = absent.new_zeros(1 + COUNT, size, dtype=torch.bool)
        gone = absent.new_zeros(size)
        for signal in range(COUNT):
            mine[1 + signal, signal * D : (signal + 1) * D] = True
            gone[signal * D : (signal + 1) * D] = absent
        for v, signal in enumerate(VITAL_AT):
            mine[1 + signal, COUNT * D + v * E : COUNT * D + (v + 1) * E] = True
        self.register_buffer("_mine", mine)
        self.register_buffer("_gone", gone)

    def forward(self, rows: Tensor) -> Tensor:
        """[n, (1 + S) * R] of features [n, X].

        Row by row, in one shape: a row has the same bits in whatever batch it stands.
        """
        said = [self._expert(self.lacking(row)).reshape(-1) for row in rows]
        return torch.stack(said) if said else rows.new_empty(0, (1 + COUNT) * len(RISKS))

    def lacking(self, row: Tensor) -> Tensor:
        """The variants [1 + S, X] of a row [X]."""
        return torch.where(self._mine, self._gone, row)


def _serving(split: SplitNetwork) -> SplitNetwork:
    """Let the specialists answer for all variants of a row at once."""
    bank = split.mixture.bank
    bank.experts = nn.ModuleList(Variants(one, split.absent_D) for one in bank.experts)
    bank.outputs = (1 + COUNT) * len(RISKS)
    return split.eval().requires_grad_(False)


class SpreadServing:
    """`models.serving.Serving` of a network whose specialists lie on several ranks.

    Args:
        model: With gate and trees; of its network the specialists are not used.
        split: The same network, spread.
        block: Rows of a block.
        begin: Called before each exchange.
    """

    def __init__(
        self,
        model: checkpoint.Calibrated,
        split: SplitNetwork,
        block: int,
        begin: Callable[[], None],
    ) -> None:
        self._split, self._block, self._begin = _serving(split), block, begin
        self._novelty = model.network.novelty
        self._trees = model.trees if len(model.trees.risk) else None
        self._general = Variants(split.general, split.absent_D)

    def __call__(self, signals: Tensor, minutes: Tensor, case: Tensor, count: int) -> Raw:
        """One block of features [B, S, D], [B, V, E], [B, F], of which `count` rows are real.

        Shares count where the specialists are, so each expert's logits are those of the mixture:
        any shares that sum to 1 give them again.
        """
        block, split = self._block, self._split
        rows = flat(signals, minutes, case)
        slow = torch.cat([signals[:, :, list(SLOW)].flatten(1), case], 1)
        # In one shape, as everything that is not row by row.
        gate = split.gate.second(silu(split.gate.first(slow)))
        novelty, strange = self._novelty(signals)
        share = shares(routed(gate, strange))
        self._begin()
        added = split.mixture(rows[:count], share[:count, 1:])
        said = (self._general(rows[:count]) + added).reshape(count, 1 + COUNT, len(RISKS))
        lacking, signal = (signals[:count, :, 1] < 0.5).nonzero().T
        own = said.new_zeros(block, len(RISKS))
        own[:count] = said[:, 0]
        logits = torch.cat([own, said[lacking, 1 + signal]]).repeat(1, len(EXPERTS))
        row = torch.cat([torch.arange(block, device=lacking.device), lacking])
        trees = None
        if self._trees is not None:
            without = [self._general.lacking(one)[1:] for one in rows[:count]]
            lacks = torch.stack(without)[lacking, signal]
            whole, like = self._trees.heard(rows)
            trees = torch.cat([whole, self._trees(lacks, like[lacking])])
        return Raw(gate, novelty, strange, row, signal, logits, trees, case)


class SpreadPredictor(Predictor):
    """A predictor on the first device of several, which share its specialists.

    Args:
        path: The model; default: the shipped one.
        devices: `cpu` as often as there are to be ranks, or `cuda:N` each.
        threads: Of each rank's network on a CPU.
        top: How many specialists answer a row; default: all, which is what the model was taught.

    Raises:
        models.checkpoint.BadCheckpoint: The file is not a model for this program.
        HostLost: A process that is to hold specialists did not start.
    """

    def __init__(
        self, path: Path | None, devices: Sequence[str], threads: int = 1, top: int | None = None
    ) -> None:
        model, version = checkpoint.load(path or checkpoint.SHIPPED)
        super().__init__(model, version, devices[0], threads, engine="torch")
        self.engine = f"torch, specialists on {len(devices)} devices"
        # A block is an exchange; what takes long goes row by row, so a filled-up one costs little.
        self._block = max(self._block, _BLOCK)
        self._hosts: list[subprocess.Popen[bytes]] = []
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", 0, len(devices), is_master=True, wait_for_workers=False
        )
        said = ["--port", store.port, "--world", len(devices), "--threads", threads]
        said += ["--model", path or checkpoint.SHIPPED, "--version", version, "--top", top or 0]
        try:
            for rank, device in enumerate(devices[1:], 1):
                own = [*said, "--rank", rank, "--device", device]
                # In a session of its own: it hears of the end from here, not from the keyboard.
                self._hosts.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "models.parallel.serving", *map(str, own)],
                        start_new_session=True,
                    )
                )
            dist.init_process_group(store=store, rank=0, world_size=len(devices), timeout=_WAIT)
            split = expert_parallel(model.network, top=top)
        except BaseException:
            self._end()
            raise
        self._serving = SpreadServing(model, split, self._block, self._begin)  # type: ignore[assignment]

    def _begin(self) -> None:
        if not self._hosts:
            raise HostLost("specialists: this predictor is closed")
        for host in self._hosts:
            if host.poll() is not None:
                raise HostLost(f"specialists: process {host.pid} ended with {host.returncode}")
        dist.broadcast(torch.ones(1, dtype=torch.int64), 0)

    def close(self) -> None:
        """End the other processes; nothing is predicted any more."""
        if self._hosts and all(host.poll() is None for host in self._hosts):
            dist.broadcast(torch.zeros(1, dtype=torch.int64), 0)
            for host in self._hosts:
                host.wait()
        self._end()

    def _end(self) -> None:
        for host in self._hosts:
            host.kill()
            host.wait()
        self._hosts = []
        if dist.is_initialized():
            dist.destroy_process_group()


def host(given: Sequence[str] | None = None) -> None:
    """Hold specialists for the predictor of another process until it says so, or ends.

    Raises:
        ValueError: The file holds another model than the predictor's.
    """
    parser = argparse.ArgumentParser(prog="models.parallel.serving")
    for name in ("port", "world", "rank", "threads", "top"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--version", required=True)
    said = parser.parse_args(given)
    torch.set_num_threads(said.threads)
    model, version = checkpoint.load(said.model)
    if version != said.version:
        raise ValueError(f"{said.model} is {version}, the predictor's is {said.version}")
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", said.port, said.world, is_master=False
    )
    dist.init_process_group(store=store, rank=said.rank, world_size=said.world, timeout=_WAIT)
    split = _serving(expert_parallel(model.to(said.device).network, top=said.top or None))
    rows = torch.empty(0, COUNT * D + V * E + F, device=said.device)
    share = torch.empty(0, len(EXPERTS) - 1, device=said.device)
    again = torch.ones(1, dtype=torch.int64)
    with torch.inference_mode():
        while True:
            dist.broadcast(again, 0)
            if not again:
                break
            split.mixture(rows, share)
    dist.destroy_process_group()


if __name__ == "__main__":
    host()
