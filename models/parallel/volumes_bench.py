"""`reshard` beside gathering the whole volume and cutting it, in one run."""

from __future__ import annotations

from statistics import median
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from models.parallel import ranks
from models.parallel.measured import Row, in_units
from models.parallel.volumes import Traffic, even_sizes, reshard

SHAPE: Final = (4, 160, 160, 160)
"""Channels and voxels: 62.5 MiB in single precision."""
BODY: Final = 0.42
"""Radius of the body over the volume's width: a cylinder of 55 % of the voxels."""
REPEATS: Final = 5


def gather_and_cut(slab: Tensor, world: int, rank: int) -> Tensor:
    """What one does without `reshard`: the whole on every rank, then a copy of the part."""
    parts = [torch.empty_like(slab) for _ in range(world)]
    dist.all_gather(parts, slab)
    whole = torch.cat(parts, 1)
    sizes = even_sizes(whole.shape[3], world)
    return whole.narrow(3, sum(sizes[:rank]), sizes[rank]).contiguous()


def measure(device: torch.device) -> list[Row]:
    """Rows of the whole volume and of one in which only the body is sent; a collective."""
    world, rank = dist.get_world_size(), dist.get_rank()
    whole = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    y, x = (torch.arange(n).float() / n - 0.5 for n in SHAPE[2:])
    inside = (y[:, None] ** 2 + x**2 < BODY**2).expand(SHAPE)
    slabs, masks = (t.tensor_split(world, 1)[rank].contiguous() for t in (whole, inside))
    want = whole.tensor_split(world, 3)[rank].contiguous().to(device)
    del whole
    rows = []
    for case, mask in (("whole volume", None), ("body of 55 %", masks.to(device))):
        x_ = slabs.to(device) if mask is None else slabs.to(device).masked_fill(~mask, 0)
        traffic = Traffic()
        out = reshard(x_, from_dim=1, to_dim=3, mask=mask, traffic=traffic)
        inside_out = inside.tensor_split(world, 3)[rank].to(device)
        expected = want if mask is None else want.masked_fill(~inside_out, 0)
        error = float((out - expected).abs().max())
        del out, inside_out, expected

        def ours(x: Tensor = x_, mask: Tensor | None = mask) -> Tensor:
            return reshard(x, from_dim=1, to_dim=3, mask=mask)

        def theirs(x: Tensor = x_) -> Tensor:
            return gather_and_cut(x, world, rank)

        took = [median(ranks.timed(one, device, REPEATS)) for one in (ours, theirs)]
        peaks = [ranks.peak_bytes(one, device) for one in (ours, theirs)]
        sent = round(ranks.total(traffic.sent_bytes, device))
        least = round(ranks.total(traffic.lower_bound_bytes, device))
        rows.append(
            Row(
                system="reshard",
                case=f"{case}, {in_units(4 * slabs.numel() * world)}, {world} ranks",
                reference_error=error,
                bytes=sent,
                time_ms=took[0],
                beside="all-gather and cut",
                beside_ms=took[1],
                ratio=took[1] / took[0],
                note=f"bytes {sent / max(1, least):.3f} of what must move; peak of a rank "
                f"{in_units(peaks[0])}, beside {in_units(peaks[1])}",
            )
        )
    return rows
