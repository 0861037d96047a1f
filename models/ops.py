"""The one door to the kernels in `cuda/`: torch operators with a reference each.

`torch.ops.vitalstream.*` run the library that `load` was given on the device it was built for, and
the reference in torch everywhere else: without a library, on another device, or for a dtype that
the kernel does not take. `backend` says which. The library is plain C, loaded by ctypes: it fits
any torch.
"""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from models import reference_ops
from models.reference_ops import LANDED, LATE, SUPERSEDED, TOUCHED

__all__ = [
    "ACTIVATIONS",
    "LANDED",
    "LATE",
    "SUPERSEDED",
    "TOUCHED",
    "backend",
    "conv3d_split",
    "load",
    "ring_put",
    "runs_on",
    "topk_indices",
]
ACTIVATIONS: Final = tuple(reference_ops.ACTIVATIONS)
_MOST_PIECES: Final = 16
_LONG: Final = ctypes.c_longlong


@dataclass(frozen=True, slots=True)
class _Library:
    path: Path
    functions: Any
    device: str
    lock: threading.Lock
    """The CPU build runs one kernel at a time."""


_library: _Library | None = None


def load(path: str | Path | None) -> str:
    """Use a kernel library from now on, or none.

    Args:
        path: `libvitalstream_kernels.so` (CUDA) or `libvitalstream_kernels_host.so` (CPU), as
            `make -C cuda` builds them; None goes back to the references.

    Returns:
        What `backend` says now.

    Raises:
        OSError: No library, or one that cannot be loaded.
        ValueError: A library of something else.
    """
    global _library
    if path is None:
        _library = None
        return backend()
    functions = ctypes.CDLL(str(path))
    try:
        for name in ("vitals_ring_put_scratch", "vitals_topk_scratch"):
            getattr(functions, name).restype = _LONG
        device = "cuda" if functions.vitals_device() == 1 else "cpu"
        for name in ("vitals_ring_put", "vitals_topk", "vitals_conv3d_split"):
            getattr(functions, name).restype = ctypes.c_int
    except AttributeError as error:
        raise ValueError(f"{path} is not a library of these kernels: {error}") from error
    _library = _Library(Path(path), functions, device, threading.Lock())
    return backend()


def backend() -> str:
    """Which implementation runs where, in words, for a log or a health report."""
    if _library is None:
        return "reference"
    return f"{_library.path.name} on {_library.device}, reference elsewhere"


def runs_on(device: torch.device) -> bool:
    """Whether a library is loaded for tensors of this device."""
    return _for(device) is not None


def _for(device: torch.device) -> _Library | None:
    return _library if _library is not None and _library.device == device.type else None


def _call(library: _Library, name: str, device: torch.device, *arguments: Any) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):
            stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
            code = getattr(library.functions, name)(*arguments, stream)
    else:
        with library.lock:
            code = getattr(library.functions, name)(*arguments, None)
    if code != 0:
        raise RuntimeError(f"{name} failed with {'a bad argument' if code < 0 else code}")


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _scratch(size_bytes: int, device: torch.device) -> Tensor:
    return torch.empty(max(1, size_bytes), dtype=torch.uint8, device=device)


def _require(tensor: Tensor, name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape) or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous {dtype} of {list(shape)},"
            f" not {tensor.dtype} of {list(tensor.shape)}"
        )


@torch.library.custom_op(
    "vitalstream::ring_put", mutates_args=("value", "within", "filled", "newest")
)
def ring_put(
    value: Tensor,
    within: Tensor,
    filled: Tensor,
    newest: Tensor,
    phase: Tensor,
    width_ms: int,
    slot: Tensor,
    column: Tensor,
    ts_ms: Tensor,
    observed: Tensor,
    version: int = 3,
) -> Tensor:
    """Put a batch of observations into one scale of device windows, as
    `models.window_store.HostWindowStore` does with `touch` and `apply`.

    Args:
        value: Ring, float32[capacity, bins, signals]; NaN where empty; changed in place.
        within: Event time within the bin in ms, -1 where empty, int32 as `value`; changed.
        filled: Whether a bin holds a value, bool[capacity, bins]; changed.
        newest: Newest event time in ms, -1 where none, int64[capacity]; changed.
        phase: Where bins are cut, ms, int64[capacity].
        width_ms: Width of a bin.
        slot: Window of each observation in the order of arrival, int32[n], below the capacity.
        column: Signal within the scale, int32[n]; -1 where the scale does not carry it.
        ts_ms: Event time, int64[n], not below 0.
        observed: Measured value, float32[n].
        version: Version of the kernel.

    Returns:
        `LANDED`, `SUPERSEDED`, `LATE` or `TOUCHED` for each, uint8[n].

    Raises:
        ValueError: Another dtype or shape, or, on the CPU, an index out of range. On a GPU the
            indices are the caller's to check, for only a wait for the device could tell.
    """
    capacity, bins, count = value.shape
    _require(value, "value", torch.float32, value.shape)
    _require(within, "within", torch.int32, value.shape)
    _require(filled, "filled", torch.bool, (capacity, bins))
    for name, tensor in (("newest", newest), ("phase", phase)):
        _require(tensor, name, torch.int64, (capacity,))
    size = slot.numel()
    for name, tensor, dtype in (
        ("slot", slot, torch.int32),
        ("column", column, torch.int32),
        ("ts_ms", ts_ms, torch.int64),
        ("observed", observed, torch.float32),
    ):
        _require(tensor, name, dtype, (size,))
    if not 0 < width_ms < 2**31:
        raise ValueError(f"width_ms: {width_ms}")
    if size == 0:
        return torch.empty(0, dtype=torch.uint8, device=value.device)
    if value.device.type == "cpu" and (
        int(slot.min()) < 0
        or int(slot.max()) >= capacity
        or int(column.min()) < -1
        or int(column.max()) >= count
        or int(ts_ms.min()) < 0
    ):
        raise ValueError("a slot, column or time is out of range")
    library = _for(value.device)
    if library is None:
        return reference_ops.ring_put(
            value, within, filled, newest, phase, width_ms, slot, column, ts_ms, observed
        )
    status = torch.empty(size, dtype=torch.uint8, device=value.device)
    needed = library.functions.vitals_ring_put_scratch(ctypes.c_int(version), ctypes.c_int(size))
    scratch = _scratch(needed, value.device)
    _call(
        library,
        "vitals_ring_put",
        value.device,
        ctypes.c_int(version),
        *map(_at, (value, within, filled, newest, phase)),
        ctypes.c_int(bins),
        ctypes.c_int(count),
        _LONG(width_ms),
        ctypes.c_int(size),
        *map(_at, (slot, column, ts_ms, observed, status, scratch)),
    )
    return status


@ring_put.register_fake
def _(value: Tensor, *others: Any, **named: Any) -> Tensor:
    slot = named["slot"] if "slot" in named else others[5]
    return torch.empty_like(slot, dtype=torch.uint8)


@torch.library.custom_op("vitalstream::topk_indices", mutates_args=())
def topk_indices(x: Tensor, k: int, version: int = 3) -> Tensor:
    """Places of the entries of largest magnitude, ascending; of equal ones the lower place first.

    Args:
        x: Gradient, float32[n]; NaN counts as the largest.
        k: How many, 1 … n.
        version: Version of the kernel.

    Returns:
        int64[k].

    Raises:
        ValueError: Another dtype or shape, or k out of range.
    """
    _require(x, "x", torch.float32, (x.numel(),))
    if not 1 <= k <= x.numel() < 2**31:
        raise ValueError(f"k: {k} of {x.numel()}")
    library = _for(x.device)
    if library is None:
        return reference_ops.topk_indices(x, k)
    out = torch.empty(k, dtype=torch.int64, device=x.device)
    scratch = _scratch(library.functions.vitals_topk_scratch(_LONG(x.numel())), x.device)
    _call(
        library,
        "vitals_topk",
        x.device,
        ctypes.c_int(version),
        _at(x),
        _LONG(x.numel()),
        _LONG(k),
        _at(out),
        _at(scratch),
    )
    return out


@topk_indices.register_fake
def _(x: Tensor, k: int, version: int = 3) -> Tensor:
    return x.new_empty(k, dtype=torch.int64)


@torch.library.custom_op("vitalstream::conv3d_split", mutates_args=())
def conv3d_split(
    pieces: Sequence[Tensor],
    starts: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dim: int,
    total: int,
    out_start: int,
    out_size: int,
    activation: str = "none",
    version: int = 3,
) -> Tensor:
    """Convolve one part of a volume that is split along `dim`, with bias and activation; forward
    only.

    Args:
        pieces: Parts of the input that the part reads, each [N, C, D, H, W] with any strides: this
            rank's slab and what it reads of its neighbours'.
        starts: Where each piece begins along `dim` in the whole volume.
        weight: [O, C / groups, kD, kH, kW].
        bias: float32[O] or None.
        stride: Three, as in `torch.nn.functional.conv3d`.
        padding: Three, around the whole volume.
        dilation: Three.
        groups: As there.
        dim: 2, 3 or 4.
        total: The whole volume's size along `dim`.
        out_start: First output of the part along `dim`.
        out_size: Outputs of the part along `dim`.
        activation: One of `ACTIVATIONS`.
        version: Version of the kernel.

    Returns:
        The part of the output, contiguous, of the pieces' dtype; sums are in float32 for half.

    Raises:
        ValueError: Pieces that do not hold what the part reads, or do not fit each other.
    """
    shape = _conv_shape(pieces, weight, stride, padding, dilation, dim, out_size)
    _check_conv(pieces, starts, weight, bias, groups, dim, activation)
    first = out_start * stride[dim - 2] - padding[dim - 2]
    span = dilation[dim - 2] * (weight.shape[dim] - 1) + 1
    end = first + (out_size - 1) * stride[dim - 2] + span
    if out_start < 0 or end > total + padding[dim - 2]:
        raise ValueError(f"outputs {out_start} to {out_start + out_size} are not all there")
    if 0 in shape:
        return pieces[0].new_empty(shape)
    needed = (max(0, first), min(end, total))
    used = sorted(
        (start, i)
        for i, start in enumerate(starts)
        if start < needed[1] and start + pieces[i].shape[dim] > needed[0] and pieces[i].shape[dim]
    )
    reach = needed[0]
    for start, i in used:
        if start > reach:
            break
        reach = max(reach, start + pieces[i].shape[dim])
    if reach < needed[1]:
        raise ValueError(f"no piece holds position {reach} along dimension {dim}")
    library = _for(weight.device)
    half = weight.dtype == torch.float16
    if library is None or not half or len(used) > _MOST_PIECES:
        window = (first, end)
        part = reference_ops.join(
            [(start, pieces[i]) for start, i in used], pieces[0], dim, needed, window
        )
        return reference_ops.convolve(
            part, weight, bias, stride, padding, dilation, groups, dim, activation
        )
    weight, y = weight.contiguous(), pieces[0].new_empty(shape)
    sizes = list(pieces[0].shape)
    sizes[dim] = total
    geometry = [sizes[0], sizes[1], weight.shape[0], groups, dim - 2, out_start]
    geometry += [ACTIVATIONS.index(activation), *sizes[2:], *weight.shape[2:]]
    geometry += [*stride, *padding, *dilation, *shape[2:]]
    chosen = [pieces[i] for _, i in used]
    spans = [n for start, i in used for n in (start, pieces[i].shape[dim])]
    strides = [n for piece in chosen for n in piece.stride()]
    _call(
        library,
        "vitals_conv3d_split",
        weight.device,
        ctypes.c_int(version),
        (_LONG * 25)(*geometry),
        ctypes.c_int(len(chosen)),
        (ctypes.c_void_p * max(1, len(chosen)))(*[piece.data_ptr() for piece in chosen]),
        (_LONG * max(1, len(spans)))(*spans),
        (_LONG * max(1, len(strides)))(*strides),
        _at(weight),
        None if bias is None else _at(bias),
        _at(y),
    )
    return y


@conv3d_split.register_fake
def _(
    pieces: Sequence[Tensor],
    starts: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dim: int,
    total: int,
    out_start: int,
    out_size: int,
    activation: str = "none",
    version: int = 3,
) -> Tensor:
    shape = _conv_shape(pieces, weight, stride, padding, dilation, dim, out_size)
    return pieces[0].new_empty(shape)


def _conv_shape(
    pieces: Sequence[Tensor],
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    dim: int,
    out_size: int,
) -> list[int]:
    if not pieces or dim not in (2, 3, 4) or out_size < 0:
        raise ValueError(f"{len(pieces)} pieces along dimension {dim}, {out_size} outputs")
    shape = [pieces[0].shape[0], weight.shape[0]]
    for d in range(3):
        span = dilation[d] * (weight.shape[d + 2] - 1) + 1
        room = pieces[0].shape[d + 2] + 2 * padding[d] - span
        shape.append(out_size if d == dim - 2 else max(0, room // stride[d] + 1))
    return shape


def _check_conv(
    pieces: Sequence[Tensor],
    starts: Sequence[int],
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    dim: int,
    activation: str,
) -> None:
    whole = [n for d, n in enumerate(pieces[0].shape) if d != dim]
    for piece in pieces:
        if (
            piece.dim() != 5
            or [n for d, n in enumerate(piece.shape) if d != dim] != whole
            or (piece.dtype, piece.device) != (weight.dtype, weight.device)
        ):
            raise ValueError("pieces and weight must fit each other in shape, dtype and device")
    if len(starts) != len(pieces):
        raise ValueError(f"{len(starts)} starts for {len(pieces)} pieces")
    channels = pieces[0].shape[1]
    if groups < 1 or weight.shape[0] % groups or channels != weight.shape[1] * groups:
        raise ValueError(f"{channels} channels in {groups} groups for {list(weight.shape)}")
    if bias is not None:
        _require(bias, "bias", torch.float32, (weight.shape[0],))
        if bias.device != weight.device:
            raise ValueError("bias lies on another device")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: {activation!r}")
