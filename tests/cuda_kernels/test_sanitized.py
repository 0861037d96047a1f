"""The kernels' very source on the CPU under AddressSanitizer and UBSan, against torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import reference_ops

Run = Callable[[list[tuple[str, list[Any]]]], list[list[Any]]]
VERSIONS = (1, 2, 3)
ORDERS = (0, 1, 2)


def order(which: int) -> tuple[str, list[Any]]:
    return "vitals_host_order!", [("int", which)]


def rings(random: np.random.Generator, capacity: int, bins: int, count: int) -> list[Any]:
    return [
        np.full((capacity, bins, count), np.nan, np.float32),
        np.full((capacity, bins, count), -1, np.int32),
        np.zeros((capacity, bins), np.bool_),
        np.full(capacity, -1, np.int64),
        random.integers(0, 3000, capacity),
    ]


def observations(
    random: np.random.Generator, size: int, capacity: int, count: int, start: int
) -> list[NDArray[Any]]:
    return [
        random.integers(0, capacity, size).astype(np.int32),
        random.integers(-1, count, size).astype(np.int32),
        start + random.integers(0, 4000, size) // 100 * 100,
        random.normal(size=size).astype(np.float32),
    ]


def tensors(arrays: list[Any]) -> list[Any]:
    return [torch.from_numpy(one.copy()) for one in arrays]


@pytest.mark.parametrize("version", VERSIONS)
def test_ring_put_equals_torch_for_every_order_of_threads(sanitized: Run, version: int) -> None:
    """Repeated beds, equal times, late values and jumps over the whole window, at block edges."""
    random = np.random.default_rng(version)
    calls: list[tuple[str, list[Any]]] = []
    expected: list[list[Any]] = []
    sizes = [1, 2, 127, 128, 129, 300]
    shapes = [(1, 1, 1), (3, 5, 4), (7, 2, 3)]
    for capacity, bins, count in shapes:
        state = rings(random, capacity, bins, count)
        for i, size in enumerate(sizes):
            batch = observations(random, size, capacity, count, [0, 500, 9000, 4000][i % 4])
            status = np.zeros(size, np.uint8)
            scratch = np.zeros(16 * size * 8 + 64, np.uint8)
            calls.append(order(ORDERS[i % 3]))
            expected.append([])
            arguments = [("int", version), *state, ("int", bins), ("int", count), 1000]
            arguments += [("int", size), *batch, status, scratch, None]
            calls.append(("vitals_ring_put", arguments))
            after = tensors(state)
            landed = reference_ops.ring_put(*after, 1000, *tensors(batch))
            expected.append([*after, landed])
            state = [one.numpy() for one in after]

    for got, want in zip(sanitized(calls), expected, strict=True):
        if want:
            for one, other in zip([*got[1:6], got[14]], want, strict=True):
                np.testing.assert_array_equal(one, other.numpy())


@pytest.mark.parametrize("version", [*VERSIONS])
def test_ring_put_needs_the_scratch_memory_that_it_says(sanitized: Run, version: int) -> None:
    """With exactly that many bytes nothing is written beyond them."""
    random = np.random.default_rng(5)
    sizes = [1, 3, 64, 65, 128, 200]
    asked = sanitized([("vitals_ring_put_scratch?", [("int", version), ("int", s)]) for s in sizes])
    calls = []
    for size, (needed, *_) in zip(sizes, asked, strict=True):
        scratch, status = np.zeros(needed, np.uint8), np.zeros(size, np.uint8)
        state, batch = rings(random, 4, 3, 2), observations(random, size, 4, 2, 0)
        arguments = [("int", version), *state, ("int", 3), ("int", 2), 1000, ("int", size)]
        calls.append(("vitals_ring_put", [*arguments, *batch, status, scratch, None]))

    assert len(sanitized(calls)) == len(sizes)


@pytest.mark.parametrize("version", VERSIONS)
def test_topk_equals_a_stable_sort_for_every_order_of_threads(sanitized: Run, version: int) -> None:
    """Few values and many ties, all equal, zeros of both signs, infinities, NaN, every edge."""
    random = np.random.default_rng(version)
    asked = []
    for n in (1, 2, 255, 256, 257, 2047, 2049):
        for kind in range(4):
            x = random.normal(size=n).astype(np.float32)
            if kind == 1:
                x = np.round(x)
            elif kind == 2:
                x = np.full(n, -0.0, np.float32)
            elif kind == 3:
                x *= np.float32(1e-40)
                x[random.integers(0, n, 3)] = [np.nan, np.inf, -np.inf]
            asked += [(x, k) for k in sorted({1, (n + 1) // 2, n})[kind % 2 :]]
    needed = sanitized([("vitals_topk_scratch?", [len(x)]) for x, _ in asked])
    calls: list[tuple[str, list[Any]]] = []
    for i, ((x, k), (size, *_)) in enumerate(zip(asked, needed, strict=True)):
        out, scratch = np.full(k, -1, np.int64), np.zeros(size, np.uint8)
        calls.append(order(ORDERS[i % 3]))
        calls.append(("vitals_topk", [("int", version), x, len(x), k, out, scratch, None]))

    for (x, k), got in zip(asked, sanitized(calls)[1::2], strict=True):
        want = reference_ops.topk_indices(torch.from_numpy(x), k)
        np.testing.assert_array_equal(got[4], want.numpy())


def split(
    random: np.random.Generator, x: NDArray[Any], axis: int, parts: int
) -> tuple[list[NDArray[Any]], list[int]]:
    cuts = np.sort(random.integers(0, x.shape[axis] + 1, parts - 1))
    edges = [0, *cuts.tolist(), x.shape[axis]]
    taken = [np.take(x, range(a, b), axis) for a, b in itertools.pairwise(edges)]
    return taken, edges[:-1]


def strides_of(x: NDArray[Any]) -> list[int]:
    return [s // x.itemsize for s in x.strides]


@pytest.mark.parametrize("version", VERSIONS)
def test_conv3d_split_equals_torch_over_random_shapes(sanitized: Run, version: int) -> None:
    """Any kernel up to 7, stride, padding, dilation, groups, channels, cuts and part of outputs."""
    random = np.random.default_rng(100 + version)
    calls: list[tuple[str, list[Any]]] = []
    expected = []
    names = list(reference_ops.ACTIVATIONS)
    for i in range(24):
        groups = int(random.integers(1, 4))
        cg, og = int(random.integers(1, 6)), int(random.integers(1, 5))
        if i % 8 == 0:
            groups, cg, og = 1, 3, int(random.choice([31, 33, 65]))
        kernel = random.integers(1, 4, 3)
        kernel[i % 3] = random.integers(1, 8)
        stride, dilation = random.integers(1, 4, 3), random.integers(1, 3, 3)
        padding = random.integers(0, 4, 3)
        size = np.maximum(random.integers(1, 8, 3), dilation * (kernel - 1) + 1 - 2 * padding)
        n, dim = int(random.integers(1, 3)), 2 + i % 3
        x = random.normal(size=(n, cg * groups, *size)).astype(np.float16)
        weight = random.normal(size=(og * groups, cg, *kernel)) / (cg * kernel.prod()) ** 0.5
        weight = weight.astype(np.float16)
        bias = random.normal(size=og * groups).astype(np.float32) if i % 4 else None
        out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        start = int(random.integers(0, out[dim - 2]))
        part = out.copy()
        part[dim - 2] = random.integers(start + 1, out[dim - 2] + 1) - start
        pieces, starts = split(random, x, dim, int(random.integers(1, 5)))
        activation = i % 4
        geometry = [n, cg * groups, og * groups, groups, dim - 2, start, activation, *size]
        geometry += [*kernel, *stride, *padding, *dilation, *part]
        spans = [v for s, p in zip(starts, pieces, strict=True) for v in (s, p.shape[dim])]
        y = np.zeros((n, og * groups, *part), np.float16)
        calls.append(order(ORDERS[i % 3]))
        strides = np.array([s for p in pieces for s in strides_of(p)], np.int64)
        arguments = [("int", version), np.array(geometry, np.int64), ("int", len(pieces)), pieces]
        arguments += [np.array(spans, np.int64), strides, weight, bias, y, None]
        calls.append(("vitals_conv3d_split", arguments))
        whole = torch.nn.functional.conv3d(
            torch.from_numpy(x).double(),
            torch.from_numpy(weight).double(),
            None if bias is None else torch.from_numpy(bias).double(),
            stride.tolist(),
            padding.tolist(),
            dilation.tolist(),
            groups,
        )
        whole = reference_ops.ACTIVATIONS[names[activation]](whole)
        expected.append(whole.narrow(dim, start, int(part[dim - 2])).numpy())

    for got, want in zip(sanitized(calls)[1::2], expected, strict=True):
        np.testing.assert_allclose(got[8].astype(np.float64), want, rtol=1e-3, atol=1e-3)


def test_the_hosts_half_rounds_as_numpy_does(sanitized: Run) -> None:
    """Every half, the midpoints between two and their neighbours, and what overflows."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    values = [halves, middles, np.nextafter(middles, np.float32(0))]
    values += [np.nextafter(middles, np.float32(1e9))]
    values += [np.array([65519.996, 65520, 1e30, np.inf, np.nan, 1e-45], np.float32)]
    x = np.concatenate([*values, *[-one for one in values]])

    got = sanitized([("vitals_host_half!", [x, ("int", len(x)), np.zeros_like(x)])])[0][2]

    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, x.astype(np.float16).astype(np.float32))


def test_a_write_beyond_an_array_is_found(sanitized: Run) -> None:
    """The checks above mean something: one entry too few for the result ends the process."""
    x, scratch = np.ones(300, np.float32), np.zeros(16384, np.uint8)
    call = ("vitals_topk", [("int", 3), x, 300, 200, np.zeros(199, np.int64), scratch, None])

    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        sanitized([call])
