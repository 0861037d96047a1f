"""A split convolution through the kernel, which reads the neighbours' slabs where they lie."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from models import ops
from models.parallel.ranks import start
from models.parallel.spatial import split_conv3d

WORLD = 2


def _run(rank: int, library: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    ops.load(library)
    random = torch.Generator().manual_seed(1)
    x, weight, bias, grad = (
        torch.randn(shape, generator=random).half()
        for shape in ((1, 4, 9, 5, 6), (6, 2, 3, 3, 3), (6,), (1, 6, 5, 5, 6))
    )
    options = {"stride": (2, 1, 1), "padding": 1, "groups": 2}
    cut = 4  # outputs 0 and 1 of the five are the first rank's
    slab = x[:, :, cut * rank : cut if rank == 0 else None].clone().requires_grad_()
    share = weight.clone().requires_grad_()

    y = split_conv3d(slab, share, bias, dim=2, **options)
    y.backward(grad[:, :, 2 * rank : 2 if rank == 0 else None])

    torch.save((y.detach(), slab.grad, share.grad), f"{folder}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.float(), b, rtol=4e-3, atol=4e-3 * float(b.abs().max()))


def test_a_half_precision_split_convolution_runs_the_kernel_and_equals_torch(
    host_library: Path, tmp_path: Path
) -> None:
    """Forward by the kernel over pieces, backward from them joined; two real processes."""
    start(_run, WORLD, str(host_library), str(tmp_path))
    random = torch.Generator().manual_seed(1)
    x, weight, bias, grad = (
        torch.randn(shape, generator=random).half().float()
        for shape in ((1, 4, 9, 5, 6), (6, 2, 3, 3, 3), (6,), (1, 6, 5, 5, 6))
    )
    x.requires_grad_()
    weight.requires_grad_()
    whole = F.conv3d(x, weight, bias, stride=(2, 1, 1), padding=1, groups=2)
    whole.backward(grad)

    outs, slabs, shares = zip(*(torch.load(tmp_path / str(r)) for r in range(WORLD)), strict=True)

    assert _close(torch.cat(outs, 2), whole.detach())
    assert _close(torch.cat(slabs, 2), x.grad)
    assert _close(shares[0].float() + shares[1].float(), weight.grad)
