"""The split convolution beside the unsplit one: error, work, halo, and what overlap is worth."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.parallel import ranks
from models.parallel.measured import Row
from models.parallel.spatial import split_conv3d

CHANNELS: Final = 16
SIZE: Final = 64
KERNELS: Final = (3, 7)
REPEATS: Final = 3


def measure(device: torch.device) -> list[Row]:
    """A row for each kernel, with and without overlap; forward and backward; a collective."""
    world, rank = dist.get_world_size(), dist.get_rank()
    rows = []
    for kernel in KERNELS:
        random = torch.Generator().manual_seed(kernel)
        x = torch.randn(1, CHANNELS, SIZE, SIZE // 2, SIZE // 2, generator=random)
        weight = torch.randn(CHANNELS, CHANNELS, *[kernel] * 3, generator=random) / kernel**3
        x, weight = x.to(device), weight.to(device).requires_grad_()
        slab = x.tensor_split(world, 2)[rank].contiguous().requires_grad_()
        x.requires_grad_()

        pad = kernel // 2

        def ours(
            overlap: bool = True, x: Tensor = slab, weight: Tensor = weight, pad: int = pad
        ) -> Tensor:
            return _there_and_back(
                split_conv3d(x, weight, dim=2, padding=pad, overlap=overlap), x, weight
            )

        def theirs(x: Tensor = x, weight: Tensor = weight, pad: int = pad) -> Tensor:
            return _there_and_back(F.conv3d(x, weight, padding=pad), x, weight)

        with FlopCounterMode(display=False) as whole_work:
            want = theirs().tensor_split(world, 2)[rank]
        with FlopCounterMode(display=False) as own_work:
            error = float((ours() - want).abs().max())
        work = ranks.total(own_work.get_total_flops(), device) / whole_work.get_total_flops()
        # Alone on the machine: the unsplit one is not slowed down by the other ranks' copies.
        beside = median(ranks.timed(theirs if rank == 0 else _nothing, device, REPEATS))
        halo = x[0, :, 0].numel() * x.element_size() * (kernel // 2) * 2 * (world - 1)
        for overlap in (True, False):
            took = median(ranks.timed(partial(ours, overlap), device, REPEATS))
            rows.append(
                Row(
                    system="split convolution",
                    case=f"{kernel}x{kernel}x{kernel}, {CHANNELS} channels, "
                    f"{SIZE}x{SIZE // 2}x{SIZE // 2}, {world} ranks, "
                    f"{'with' if overlap else 'without'} overlap",
                    reference_error=error,
                    bytes=2 * halo,
                    time_ms=took,
                    beside="unsplit, one rank",
                    beside_ms=beside,
                    ratio=beside / took,
                    note=f"forward and backward; work {100 * (work - 1):+.2f} % of the unsplit "
                    "one's, halo there and back",
                )
            )
    return rows


def _there_and_back(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    return y.detach()


def _nothing() -> None:
    """What the other ranks do meanwhile."""
