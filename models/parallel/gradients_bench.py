"""Thinned-out gradients beside dense ones: bytes at the sockets, and a step's time on a fast and on
a slow link.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.network import Network
from models.parallel import ranks
from models.parallel.gradients import TopKConfig, TopKState, topk_hook
from models.parallel.measured import Row

SLOW_BITS: Final = 100_000_000
LARGE: Final = 1_000_000
REPEATS: Final = 5


class _Layer(nn.Module):
    """As many weights as asked for, and next to no work: what is measured is the exchange."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sum()


def measure(device: torch.device) -> list[Row]:
    """Rows for the shipped network's weights and for a million, at loopback and paced."""
    world = dist.get_world_size()
    shipped = sum(parameter.numel() for parameter in Network().parameters())
    rows = []
    for name, count in (("the network", shipped), ("larger", LARGE)):
        x = torch.randn(count, generator=torch.Generator().manual_seed(dist.get_rank())).to(device)
        times: dict[tuple[bool, bool], float] = {}
        sent: dict[bool, float] = {}
        error = 0.0
        for thin in (False, True):
            layer = _Layer(count).to(device)
            ddp = DistributedDataParallel(layer, bucket_cap_mb=100)
            state = TopKState(layer.named_parameters(), TopKConfig())
            if thin:
                ddp.register_comm_hook(state, topk_hook)

            step = partial(_step, ddp, layer, x)
            times[thin, False] = median(ranks.timed(step, device, REPEATS, warm=3))
            if thin:
                error = _error(step, layer, state, x)
            if device.type == "cpu":  # what NCCL sends cannot be counted or slowed down here
                before = ranks.socket_bytes()
                for _ in range(REPEATS):
                    step()
                sent[thin] = ranks.total((ranks.socket_bytes() - before) / REPEATS, device)
                dist.barrier()
                # A ring sends on one connection a rank, the other straight on all of them.
                ranks.pace(SLOW_BITS // (world - 1 if thin else 1))
                times[thin, True] = median(ranks.timed(step, device, 3, warm=0))
                ranks.pace(None)
            dist.barrier()
        rows += _rows(name, count, world, error, times, sent)
    return rows


def _step(ddp: DistributedDataParallel, layer: _Layer, x: torch.Tensor) -> torch.Tensor:
    layer.weight.grad = None
    ddp(x).backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


def _error(
    step: Callable[[], torch.Tensor], layer: _Layer, state: TopKState, x: torch.Tensor
) -> float:
    """What every rank was given against the mean of what the ranks no longer keep."""
    memory = state.memory(layer.weight)
    due = (memory.residual + (memory.velocity * state.config.momentum + x)).double()
    given = step()
    gave = due - memory.residual
    dist.all_reduce(gave)
    return float((given - gave / dist.get_world_size()).abs().max())


def _rows(
    name: str,
    count: int,
    world: int,
    error: float,
    times: dict[tuple[bool, bool], float],
    sent: dict[bool, float],
) -> list[Row]:
    extra_ms = times[True, False] - times[False, False]
    turn = "never pays here"
    if sent and extra_ms > 0:
        per_rank = (sent[False] - sent[True]) / world
        turn = f"pays below {per_rank * 8 / extra_ms / 1e3:.0f} Mbit/s (calculated)"
    case = f"{name}, {count} weights, 0.1 %, {world} ranks"
    rows = []
    if sent:
        rows.append(
            Row(
                system="gradients",
                case=f"{case}: bytes a step",
                reference_error=error,
                bytes=round(sent[True]),
                time_ms=times[True, False],
                beside="dense all-reduce",
                beside_ms=times[False, False],
                ratio=sent[False] / sent[True],
                note="bytes that left the sockets, indices and headers included; ratio of bytes",
            )
        )
    for paced, link in ((False, "this machine's link"), (True, "100 Mbit/s")):
        if (True, paced) in times:
            rows.append(
                Row(
                    system="gradients",
                    case=f"{case}: time at {link}",
                    reference_error=error,
                    bytes=round(sent[True]) if sent else None,
                    time_ms=times[True, paced],
                    beside="dense all-reduce",
                    beside_ms=times[False, paced],
                    ratio=times[False, paced] / times[True, paced],
                    note="each rank's uplink paced by the kernel" if paced else turn,
                )
            )
    return rows
