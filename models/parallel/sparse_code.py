"""The bytes of a thinned-out gradient: ascending indices and their values.

The length depends on sizes alone, so every rank sends the same number of bytes and no sizes need to
be agreed on first. Indices travel as Rice-coded gaps, about 11.5 bits for one in a thousand, which
is a tenth of a bit above what random places need. Values travel as a sign and one of 127 magnitudes
in equal ratios between the least and the largest that are sent, or as bfloat16.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ValueBits = Literal[8, 16]
_LEVELS: Final = 127
_RANGE: Final = 1e-6
"""Magnitudes below this share of the largest one are sent as this share."""


def rice_bits(count: int, total: int) -> int:
    """Low bits of a gap that are sent as they are: about log2 of the mean gap."""
    return max(0, int(np.log2(max(1.0, total / max(1, count)))))


def rice_bytes(count: int, total: int) -> int:
    """Bytes that the code of `count` ascending indices below `total` never exceeds."""
    low = rice_bits(count, total)
    return (count * (low + 1) + (total >> low) + 7) // 8


def rice_encode(indices: NDArray[np.int64], total: int) -> NDArray[np.uint8]:
    """Code ascending, distinct indices below `total` as gaps: quotients in unary, then all
    remainders.

    Returns:
        Exactly `rice_bytes(len(indices), total)` bytes.
    """
    low = rice_bits(len(indices), total)
    gaps = np.diff(indices, prepend=-1) - 1
    ends = np.cumsum((gaps >> low) + 1) - 1
    bits = np.zeros(rice_bytes(len(indices), total) * 8, np.uint8)
    unary = len(bits) - len(indices) * low
    bits[ends] = 1
    shifts = np.arange(low, dtype=np.int64)
    remainders = (gaps[:, None] >> shifts & 1).astype(np.uint8).reshape(-1)
    bits[unary : unary + len(remainders)] = remainders
    return np.packbits(bits)


def rice_decode(code: NDArray[np.uint8], count: int, total: int) -> NDArray[np.int64]:
    """Inverse of `rice_encode`.

    Raises:
        ValueError: Bytes that `rice_encode` did not make of such indices.
    """
    if len(code) != rice_bytes(count, total):
        raise ValueError(f"{len(code)} bytes do not code {count} indices below {total}")
    low = rice_bits(count, total)
    bits = np.unpackbits(code)
    unary = len(bits) - count * low
    ends = np.flatnonzero(bits[:unary])
    if len(ends) != count:
        raise ValueError(f"the code holds {len(ends)} indices instead of {count}")
    quotients = np.diff(ends, prepend=-1) - 1
    remainders = bits[unary:].reshape(count, low).astype(np.int64) @ (
        1 << np.arange(low, dtype=np.int64)
    )
    indices = np.cumsum((quotients << low) + remainders + 1) - 1
    if count and indices[-1] >= total:
        raise ValueError("the code names an index beyond the gradient")
    return np.asarray(indices, np.int64)


def values_bytes(count: int, bits: ValueBits) -> int:
    """Bytes of `count` values."""
    return 2 * count if bits == 16 else count + 8


def values_encode(values: Tensor, bits: ValueBits) -> Tensor:
    """Code float32[n] as uint8[values_bytes(n)]."""
    if bits == 16:
        return values.to(torch.bfloat16).view(torch.uint8)
    size = values.abs()
    top = size.max()
    low = torch.maximum(size.min(), top * _RANGE)
    ends = torch.stack([low, top])
    span = torch.log(top / low).clamp(min=1e-12)
    level = (torch.log(size / low) / span * (_LEVELS - 1)).round().clamp(0, _LEVELS - 1)
    level = torch.where(size > 0, level + 1, 0.0).nan_to_num(0.0).to(torch.uint8)
    return torch.cat([ends.view(torch.uint8), level | (values < 0).to(torch.uint8) << 7])


def values_decode(code: Tensor, bits: ValueBits) -> Tensor:
    """Inverse of `values_encode`, float32[n]: what of a value was lost is within half a step."""
    if bits == 16:
        return code.clone().view(torch.bfloat16).to(torch.float32)
    low, top = code[:8].clone().view(torch.float32)
    level = (code[8:] & 127).to(torch.float32)
    size = low * (top / low) ** ((level - 1) / (_LEVELS - 1))
    size = torch.where(level > 0, size, 0.0)
    return torch.where(code[8:] >= 128, -size, size)
