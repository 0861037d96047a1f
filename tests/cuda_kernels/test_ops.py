"""The operators: registration, and that kernels, references and the host's windows agree."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from models import ops
from models.config import GRID
from models.signals import COUNT
from models.window_store import HostWindowStore


def ring(capacity: int = 4, bins: int = 5, count: int = 3) -> list[Tensor]:
    shape = (capacity, bins, count)
    return [
        torch.full(shape, torch.nan),
        torch.full(shape, -1, dtype=torch.int32),
        torch.zeros(shape[:2], dtype=torch.bool),
        torch.full((capacity,), -1),
        torch.zeros(capacity, dtype=torch.int64),
    ]


def batch(seed: int, size: int = 40, capacity: int = 4, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> Tensor:
        return torch.randint(n, (size,), generator=generator)

    return [
        below(capacity).int(),
        below(count + 1).int() - 1,
        below(9000),
        torch.randn(size, generator=generator),
    ]


def convolution(dtype: torch.dtype = torch.float16) -> tuple[list[Any], dict[str, Any]]:
    torch.manual_seed(0)
    whole = torch.randn(1, 4, 6, 5, 4).to(dtype)
    pieces = [whole[:, :, :2], whole[:, :, 2:3], whole[:, :, 3:]]
    weight, bias = torch.randn(6, 2, 3, 3, 3).to(dtype), torch.randn(6)
    arguments = [pieces, [0, 2, 3], weight, bias, [1, 2, 1], [1, 1, 1], [1, 1, 1], 2, 2, 6, 1, 3]
    return arguments, {"activation": "gelu"}


def checks() -> None:
    opcheck(torch.ops.vitalstream.ring_put.default, (*ring(), 1000, *batch(1)))
    opcheck(torch.ops.vitalstream.topk_indices.default, (torch.randn(50), 7))
    opcheck(torch.ops.vitalstream.conv3d_split.default, *convolution())


def test_operators_pass_opcheck_with_references() -> None:
    """Schema, mutation, fake kernels and dispatch are as torch wants them."""
    ops.load(None)

    assert ops.backend() == "reference"
    checks()


def test_operators_pass_opcheck_with_the_library(loaded: str) -> None:
    """The same where the kernels run."""
    assert loaded == "libvitalstream_kernels_host.so on cpu, reference elsewhere"
    checks()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_operators_equal_their_references(host_library: Path, version: int) -> None:
    """Each version of each kernel, called as the service calls it."""
    results = []
    for path in (None, host_library):
        ops.load(path)
        try:
            state, status = ring(), []
            for seed in range(5):
                status.append(ops.ring_put(*state, 1000, *batch(seed), version))
            x = torch.randn(3000, generator=torch.Generator().manual_seed(1)).round(decimals=1)
            arguments, named = convolution()
            y = ops.conv3d_split(*arguments, **named, version=version)
            results.append([*state, *status, ops.topk_indices(x, 200, version), y.float()])
        finally:
            ops.load(None)

    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_the_part_of_a_split_convolution_is_that_of_the_whole() -> None:
    """In float64 the reference gives exactly the slab of conv3d over all."""
    arguments, _ = convolution(torch.float64)
    pieces, _, weight, bias, stride, padding, dilation, groups, dim, _, start, size = arguments
    whole = torch.nn.functional.conv3d(
        torch.cat(pieces, dim), weight, bias.double(), stride, padding, dilation, groups
    )

    part = ops.conv3d_split(*arguments)

    torch.testing.assert_close(part, whole.narrow(dim, start, size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernels", [False, True])
def test_ring_put_gives_the_windows_of_the_hosts_store(host_library: Path, kernels: bool) -> None:
    """The device's hour ring holds what `HostWindowStore` holds after the same messages."""
    random = np.random.default_rng(4)
    capacity, scale = 5, GRID.scales[0]
    store = HostWindowStore(capacity=capacity)
    state = ring(capacity, scale.bins, COUNT)
    for slot in range(capacity):
        phase = int(random.integers(0, 2 * scale.width_ms))
        store.open(slot, phase, None)
        state[4][slot] = phase
    ops.load(host_library if kernels else None)
    try:
        for step in range(12):
            size = int(random.integers(1, 200))
            start = step * scale.width_ms * (1 if step % 4 else scale.bins // 2)
            cells = SimpleNamespace(
                slot=random.integers(0, capacity, size).astype(np.int32),
                signal=random.integers(0, COUNT, size).astype(np.int16),
                ts_ms=start + random.integers(0, 5, size) * (scale.width_ms // 4),
                value=random.normal(size=size).astype(np.float32),
            )
            store.touch(cells.slot, cells.ts_ms)
            applied = store.apply(cells)
            given = [cells.slot, cells.signal.astype(np.int32), cells.ts_ms, cells.value]
            status = ops.ring_put(*state, scale.width_ms, *map(torch.from_numpy, given))
            assert int((status == ops.LANDED).sum()) == applied.landed
            assert int((status == ops.LATE).sum()) == applied.late
            assert int((status == ops.SUPERSEDED).sum()) == applied.superseded
            held = store._hours
            for mine, theirs in zip(state, (held.value, held.within, held.filled), strict=False):
                np.testing.assert_array_equal(mine.numpy(), theirs)
    finally:
        ops.load(None)


def test_what_is_no_kernel_library_is_refused(tmp_path: Path) -> None:
    """A missing file and a file of something else leave the references in place."""
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")

    for path in (other, tmp_path / "none.so"):
        with pytest.raises(OSError, match="so"):
            ops.load(path)
    assert ops.backend() == "reference"


def test_arguments_that_do_not_fit_are_refused() -> None:
    """An index beyond the ring, a k beyond the gradient, a hole between the pieces."""
    state, given = ring(), batch(1)
    given[0][3] = 4
    with pytest.raises(ValueError, match="out of range"):
        ops.ring_put(*state, 1000, *given)
    with pytest.raises(ValueError, match="k: 11 of 10"):
        ops.topk_indices(torch.randn(10), 11)
    arguments, _ = convolution()
    arguments[0], arguments[1] = [arguments[0][0], arguments[0][2]], [0, 3]
    with pytest.raises(ValueError, match="no piece holds position 2"):
        ops.conv3d_split(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("version", [1, 2, 3])
def test_kernels_on_the_device_equal_their_references(version: int) -> None:
    """Needs `make -C cuda library` before; the references run on the CPU."""
    path = Path(__file__).parents[2] / "cuda/build/libvitalstream_kernels.so"
    if not path.exists():
        pytest.skip("the library is not built: make -C cuda library")
    ops.load(path)
    try:
        state, on_device = ring(), [one.cuda() for one in ring()]
        for seed in range(5):
            given = batch(seed)
            want = ops.ring_put(*state, 1000, *given)
            got = ops.ring_put(*on_device, 1000, *[one.cuda() for one in given], version)
            torch.testing.assert_close(got.cpu(), want)
        for one, other in zip(on_device, state, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=0, atol=0, equal_nan=True)
        x = torch.randn(100_000).round(decimals=2)
        assert torch.equal(ops.topk_indices(x.cuda(), 999, version).cpu(), ops.topk_indices(x, 999))
        arguments, named = convolution()
        moved = [arguments[0], *arguments[2:4]]
        pieces = [piece.cuda() for piece in moved[0]]
        device = [pieces, arguments[1], moved[1].cuda(), moved[2].cuda(), *arguments[4:]]
        y = ops.conv3d_split(*device, **named, version=version)
        want = ops.conv3d_split(*arguments, **named)
        torch.testing.assert_close(y.cpu(), want, rtol=1e-3, atol=1e-3)
        opcheck(torch.ops.vitalstream.conv3d_split.default, tuple(device), named)
    finally:
        ops.load(None)
