"""A convolution split over real processes equals the whole one, forward and backward."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.flop_counter import FlopCounterMode

from models.parallel.ranks import start
from models.parallel.slabs import Layout
from models.parallel.spatial import split_conv3d

WORLD = 4
TOLERANCE = 1e-12


def _case(rng: random.Random) -> tuple[list[int], dict[str, Any], list[int], int]:
    """A random convolution whose kernel fits its padded volume."""
    kernel = [rng.randint(1, 7) for _ in range(3)]
    options: dict[str, Any] = {
        "stride": [rng.randint(1, 3) for _ in range(3)],
        "padding": [rng.randint(0, 4) for _ in range(3)],
        "dilation": [rng.randint(1, 2) for _ in range(3)],
    }
    size = [
        max(options["dilation"][i] * (kernel[i] - 1) + 1 - 2 * options["padding"][i], 1)
        + rng.randint(0, 9)
        for i in range(3)
    ]
    if rng.random() < 0.25:
        options.update(stride=1, padding="same")
    return kernel, options, size, rng.choice([1, 1, 2])


def _slab(x: torch.Tensor, dim: int, rank: int, world: int, rng: random.Random) -> torch.Tensor:
    """A rank's slab of a volume cut at random places; slabs may be empty."""
    size = x.shape[dim]
    bounds = [0, *sorted(rng.randint(0, size) for _ in range(world - 1)), size]
    return x.narrow(dim, bounds[rank], bounds[rank + 1] - bounds[rank])


def _error(ours: torch.Tensor, whole: torch.Tensor) -> float:
    if ours.numel() == 0:
        return 0.0
    return float((ours - whole).abs().max()) / max(1.0, float(whole.abs().max()))


def _compare(
    trial: int,
    dims: list[int],
    groups: list[dist.ProcessGroup],
    summed: dist.ProcessGroup,
    given: DeviceMesh | None = None,
) -> float:
    """Largest error of output and gradients, relative to the largest number.

    A mesh is given instead of groups where there is one.
    """
    rng = random.Random(trial)
    torch.manual_seed(trial)
    kernel, options, size, channels = _case(rng)
    x = torch.randn(2, 2 * channels, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2 * channels, 2, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2 * channels, dtype=torch.float64, requires_grad=True)
    whole = F.conv3d(x, weight, bias, groups=channels, **options)
    grad = torch.randn_like(whole)
    whole.backward(grad)
    mine = x.detach()
    for dim, group in zip(dims, groups, strict=True):
        mine = _slab(mine, dim, dist.get_rank(group), dist.get_world_size(group), rng)
    mine = mine.clone().requires_grad_()
    shares = [t.detach().clone().requires_grad_() for t in (weight, bias)]

    out = split_conv3d(mine, *shares, groups=channels, dim=dims, group=given or groups, **options)

    want, want_x, want_grad = whole.detach(), x.grad, grad
    for dim, group in zip(dims, groups, strict=True):
        outs, ins = (
            Layout.of(out.shape[dim], group, out.device),
            Layout.of(mine.shape[dim], group, out.device),
        )
        assert outs.total == whole.shape[dim]
        a, b = outs.owned(outs.rank)
        want, want_grad = want.narrow(dim, a, b - a), want_grad.narrow(dim, a, b - a)
        a, b = ins.owned(ins.rank)
        want_x = want_x.narrow(dim, a, b - a)
    assert out.shape == want.shape
    out.backward(want_grad)
    errors = [_error(out, want), _error(mine.grad, want_x)]
    for share, reference in zip(shares, (weight, bias), strict=True):
        dist.all_reduce(share.grad, group=summed)
        errors.append(_error(share.grad, reference.grad))
    return max(errors)


def _work(group: dist.ProcessGroup) -> float:
    """Multiplications of all ranks over those of the whole volume, there and back."""
    whole = torch.randn(1, 2, 15, 6, 7, requires_grad=True)
    weight = torch.randn(2, 2, 5, 3, 7, requires_grad=True)
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    slab = whole.detach().tensor_split(world, 2)[rank].clone().requires_grad_()
    with FlopCounterMode(display=False) as alone:
        F.conv3d(whole, weight, padding=(2, 1, 3)).sum().backward()
    with FlopCounterMode(display=False) as split:
        split_conv3d(slab, weight, padding=(2, 1, 3), dim=2, group=group).sum().backward()
    total = torch.tensor(float(split.get_total_flops()))
    dist.all_reduce(total, group=group)
    return float(total) / alone.get_total_flops()


def _run(rank: int, store: str, out: str) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    worst = 0.0
    line = [dist.new_group(list(range(n))) for n in (2, 3, 4)]
    rows = [dist.new_group([j, j + 2]) for j in range(2)]
    columns = [dist.new_group([2 * i, 2 * i + 1]) for i in range(2)]
    some = dist.new_group([3, 1])
    mesh = DeviceMesh("cpu", torch.arange(4).view(2, 2))
    for trial in range(30):
        dims = random.Random(trial).sample([2, 3, 4], 2)
        if trial % 6 == 0:
            worst = max(worst, _compare(trial, dims, mesh.get_all_groups(), line[2], mesh))
        elif trial % 3 == 0:
            both = [rows[rank % 2], columns[rank // 2]]
            worst = max(worst, _compare(trial, dims, both, line[2]))
        elif trial % 8 == 0:
            if rank in (1, 3):
                worst = max(worst, _compare(trial, dims[:1], [some], some))
        elif rank < 2 + trial % 3:
            group = line[trial % 3]
            worst = max(worst, _compare(trial, dims[:1], [group], group))
    Path(f"{out}.{rank}").write_text(json.dumps({"worst": worst, "work": _work(line[2])}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What each of four processes found."""
    folder = tmp_path_factory.mktemp("spatial")
    start(_run, WORLD, str(folder / "store"), str(folder / "out"))
    return [json.loads((folder / f"out.{rank}").read_text()) for rank in range(WORLD)]


def test_split_convolution_equals_the_whole_one_forward_and_backward(
    ranks: list[dict[str, float]],
) -> None:
    """Any kernel, stride, padding, dilation and groups; uneven and empty slabs; one dimension and a
    2-D mesh; a part of the ranks.
    """
    assert [one["worst"] < TOLERANCE for one in ranks] == [True] * WORLD


def test_the_work_of_all_ranks_is_that_of_the_whole(ranks: list[dict[str, float]]) -> None:
    """Each output is computed once, by one rank, also with the interior ahead of the rims."""
    assert [one["work"] for one in ranks] == [pytest.approx(1.0, abs=0.02)] * WORLD


@pytest.mark.parametrize(
    ("said", "given"),
    [
        ("dim must name", {"dim": 1}),
        ("dim must name", {"dim": (2, -3), "group": (None, None)}),
        ("5 dimensions", {"dim": 2, "x": torch.zeros(1, 4, 4, 4)}),
        ("goes with a stride of 1", {"dim": 2, "padding": "same", "stride": 2}),
        ("'same' or 'valid'", {"dim": 2, "padding": "reflect"}),
        ("stride must be", {"dim": 2, "stride": 0}),
        ("dilation must be", {"dim": 2, "dilation": (1, 1)}),
        ("padding must be", {"dim": 2, "padding": -1}),
    ],
)
def test_what_is_no_split_convolution_is_refused(said: str, given: dict[str, Any]) -> None:
    """In a sentence, before anything is sent: channels are not split, nor what has no volume."""
    given = {"x": torch.zeros(1, 1, 4, 4, 4), "weight": torch.zeros(1, 1, 1, 1, 1), **given}

    with pytest.raises(ValueError, match=said):
        split_conv3d(**given)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process as a world of one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("padding", ["same", "valid", np.int64(1), (2,)])
def test_numbers_and_words_are_those_of_torch(alone: None, padding: Any) -> None:
    """Numpy's integers, one number for three, a dimension counted from the end; one rank is enough
    to say so.
    """
    x, weight = torch.randn(1, 2, 7, 6, 5), torch.randn(2, 2, 4, 3, 2)
    plain = int(padding) if isinstance(padding, np.integer) else padding

    out = split_conv3d(x, weight, padding=padding, dim=np.int64(-3))

    want = F.conv3d(x, weight, padding=plain)
    torch.testing.assert_close(out, want)
