"""A volume split along one axis becomes the same one split along another, over processes."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.parallel import volumes
from models.parallel.ranks import start
from models.parallel.volumes import Traffic, even_sizes, reshard

WORLD = 4
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex128,
)


def _bounds(total: int, world: int, rng: random.Random) -> list[int]:
    return [0, *sorted(rng.randint(0, total) for _ in range(world - 1)), total]


def _trial(trial: int, rank: int) -> None:
    rng = random.Random(trial)
    torch.manual_seed(trial)
    shape = [rng.randint(1, 9) for _ in range(4)]
    source, target = rng.sample(range(4), 2)
    whole = (torch.randn(shape) * 50).to(DTYPES[trial % len(DTYPES)])
    mask = torch.rand(shape) < 0.4 if trial % 2 else None
    if mask is not None:
        whole[~mask] = 0
    cut, wanted = _bounds(shape[source], WORLD, rng), _bounds(shape[target], WORLD, rng)
    sizes = [b - a for a, b in pairwise(wanted)] if trial % 3 else None
    mine = [
        t.narrow(source, cut[rank], cut[rank + 1] - cut[rank]) if t is not None else None
        for t in (whole, mask)
    ]
    traffic = Traffic()

    out = reshard(
        mine[0], from_dim=source, to_dim=target, sizes=sizes, mask=mine[1], traffic=traffic
    )

    sizes = sizes or even_sizes(shape[target], WORLD)
    want = whole.narrow(target, sum(sizes[:rank]), sizes[rank])
    assert torch.equal(out, want)
    stays = mine[0].narrow(target, sum(sizes[:rank]), sizes[rank])
    moved = mine[0].numel() - stays.numel()
    if mask is None:
        assert traffic.sent_bytes == traffic.lower_bound_bytes == moved * whole.element_size()
    else:
        inside = mine[1].narrow(target, sum(sizes[:rank]), sizes[rank])
        moved = int(mine[1].sum()) - int(inside.sum())
        assert traffic.lower_bound_bytes == moved * whole.element_size()


def _gradients(rank: int, some: dist.ProcessGroup) -> None:
    """Over ranks 3 and 1 alone, whose group numbers them otherwise; with and without a mask."""
    if rank not in (1, 3):
        return
    generator = torch.Generator().manual_seed(5)
    whole = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 6, 7, generator=generator, dtype=torch.float64)
    body = torch.rand(5, 6, 7, generator=generator) < 0.5
    at = dist.get_rank(some)
    rows, columns = ([slice(2), slice(2, 5)][at], [slice(6), slice(6, 7)][at])
    for mask in (None, body):
        mine = (whole if mask is None else whole * mask)[rows].clone().requires_grad_()

        out = reshard(
            mine,
            from_dim=-3,
            to_dim=-1,
            sizes=[6, 1],
            group=some,
            mask=None if mask is None else mask[rows],
        )
        (out * weight[..., columns]).sum().backward()

        want = weight if mask is None else weight * mask
        assert torch.equal(mine.grad, want[rows])


def _run(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    volumes.CHUNK_BYTES = 64  # many chunks, also of these small volumes
    for trial in range(21):
        _trial(trial, rank)
    with pytest.raises(ValueError, match="do not cut"):
        reshard(torch.zeros(2, 3), from_dim=0, to_dim=1, sizes=[1, 1, 1, 1])
    with pytest.raises(ValueError, match="to_dim must name one of 2 axes"):
        reshard(torch.zeros(2, 3), from_dim=0, to_dim=2)
    _gradients(rank, dist.new_group([3, 1]))
    Path(f"{out}.{rank}").touch()
    dist.barrier()
    dist.destroy_process_group()


def test_resharded_slabs_are_the_whole_s_and_only_moves_are_sent(tmp_path: Path) -> None:
    """Any dtype, uneven and empty slabs, with and without a body mask; no byte too many is sent.
    Gradients come back to the voxels that they are of, also within a part of the ranks.
    """
    start(_run, WORLD, str(tmp_path / "store"), str(tmp_path / "done"))

    assert all((tmp_path / f"done.{rank}").exists() for rank in range(WORLD))
