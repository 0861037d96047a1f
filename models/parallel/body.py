"""A body within a volume: which voxels travel, as bits, and the values inside, packed.

On a CPU numpy packs: it moves runs of a body at once, where torch's masked operations go voxel by
voxel, above all through a slab that is not contiguous.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

_PLAIN: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of a voxel, what numpy knows as well."""


def bits_bytes(count: int) -> int:
    """Bytes of a mask of so many voxels."""
    return (count + 7) // 8


def to_bits(mask: Tensor) -> Tensor:
    """A boolean tensor as bits, 8 to a byte."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.contiguous().numpy(), bitorder="little"))
    flat = mask.reshape(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (flat * weights).sum(1, dtype=torch.uint8)


def of_bits(bits: Tensor, count: int) -> Tensor:
    """Inverse of `to_bits`, bool[count]."""
    if bits.device.type == "cpu":
        flat = np.unpackbits(bits.numpy(), count=count, bitorder="little")
        return torch.from_numpy(flat).view(torch.bool)
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(1) >> shifts & 1).to(torch.bool).view(-1)[:count]


def count(inside: Tensor) -> int:
    """How many voxels are inside."""
    return int(inside.count_nonzero())


def take(x: Tensor, inside: Tensor) -> Tensor:
    """Values of `x` inside, flat, in the order of its axes; both may be views."""
    plain = _numpy(x)
    if plain is None:
        return x.masked_select(inside)
    return torch.from_numpy(plain[inside.numpy()]).view(x.dtype)


def put(x: Tensor, inside: Tensor, values: Tensor) -> None:
    """Inverse of `take`: values [count] to where they were taken from, in `x`."""
    plain, flat = _numpy(x), _numpy(values)
    if plain is None or flat is None:
        x.masked_scatter_(inside, values)
    else:
        plain[inside.numpy()] = flat


def _numpy(x: Tensor) -> np.ndarray[Any, Any] | None:
    """The same memory in numpy, as integers; None where there is no such view."""
    like = _PLAIN.get(x.element_size())
    if x.device.type != "cpu" or like is None:
        return None
    return x.detach().view(like).numpy()
