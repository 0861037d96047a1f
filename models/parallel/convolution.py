"""A 3D convolution's settings, and what a rank computes of it: parts of the outputs along the last
split axis, from inputs that it holds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor

from models import ops
from models.parallel.halo import Axis
from models.parallel.slabs import Range, intersect

Numbers = SupportsIndex | Sequence[SupportsIndex]
Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Settings:
    """As `torch.nn.functional.conv3d` takes them, three of each.

    Attributes:
        stride: At least 1.
        before: Zeros ahead of the volume; `after` behind it: as many, or one more where "same"
            padding of an even span is odd.
        dilation: At least 1.
        groups: Of channels.
    """

    stride: Three
    before: Three
    after: Three
    dilation: Three
    groups: int

    @classmethod
    def of(
        cls,
        weight: Tensor,
        stride: Numbers,
        padding: Numbers | str,
        dilation: Numbers,
        groups: SupportsIndex,
    ) -> Settings:
        """Of what a caller gives.

        Raises:
            ValueError: Numbers that are too small or not one or three, an unknown word, or "same"
                padding of a strided convolution.
        """
        strides, dilations = _three(stride, "stride", 1), _three(dilation, "dilation", 1)
        if padding == "same":
            if strides != (1, 1, 1):
                raise ValueError(f"padding 'same' goes with a stride of 1, not {stride!r}")
            spans = [dilations[d] * (weight.shape[d + 2] - 1) for d in range(3)]
            before = _three([span // 2 for span in spans], "padding", 0)
            after = _three([span - span // 2 for span in spans], "padding", 0)
        elif isinstance(padding, str) and padding != "valid":
            raise ValueError(f"padding must be numbers, 'same' or 'valid', not {padding!r}")
        else:
            before = after = _three(0 if isinstance(padding, str) else padding, "padding", 0)
        return cls(strides, before, after, dilations, operator.index(groups))


def _three(value: Numbers, name: str, least: int) -> Three:
    given = list(value) if isinstance(value, Sequence) else [value]
    values = tuple(operator.index(v) for v in given)
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or any(v < least for v in values):
        raise ValueError(f"{name} must be an integer or three of at least {least}, not {value!r}")
    return values


@dataclass(frozen=True, slots=True)
class Convolution:
    """A split convolution: its axes and settings."""

    axes: tuple[Axis, ...]
    settings: Settings

    @property
    def padding(self) -> Three:
        """What `conv3d` pads itself: both sides of the dimensions that are whole."""
        split = {axis.dim for axis in self.axes}
        first, second, third = (0 if d + 2 in split else self.settings.before[d] for d in range(3))
        return first, second, third

    def edges(self) -> list[int]:
        """Zeros, in the order of `F.pad`: outside the volume where this rank's outputs read them,
        and what a whole dimension has behind it more than ahead.
        """
        pad = [0] * 6
        for d in range(3):
            pad[2 * (2 - d) + 1] = self.settings.after[d] - self.settings.before[d]
        for axis in self.axes:
            start, end = axis.field(axis.outputs(axis.layout.rank))
            at = 2 * (4 - axis.dim)
            pad[at], pad[at + 1] = axis.zeros((start, end)) if end > start else (0, 0)
        return pad

    def by_kernel(self, weight: Tensor) -> bool:
        """Whether a kernel reads the pieces where they lie: one split dimension, half precision,
        as much padding behind as ahead, and a library for the device.
        """
        half, even = weight.dtype == torch.float16, self.settings.before == self.settings.after
        return half and even and len(self.axes) == 1 and ops.runs_on(weight.device)

    def in_place(
        self,
        slab: Tensor,
        pieces: list[tuple[Range, Tensor]],
        weight: Tensor,
        bias: Tensor | None,
        outputs: Range,
    ) -> Tensor:
        """A range of outputs from the slab and the halo's pieces, which are not concatenated."""
        (axis,) = self.axes
        parts = [(axis.layout.owned(axis.layout.rank)[0], slab)]
        parts += [(start, tensor) for (start, _), tensor in pieces]
        done: Tensor = ops.conv3d_split(
            [tensor for _, tensor in parts],
            [start for start, _ in parts],
            weight,
            None if bias is None else bias.float(),
            self.settings.stride,
            self.settings.before,
            self.settings.dilation,
            self.settings.groups,
            axis.dim,
            axis.layout.total,
            outputs[0],
            outputs[1] - outputs[0],
        )
        return done

    def part(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, outputs: Range, held: Range
    ) -> Tensor:
        """A range of outputs along the last axis from inputs `held` (global) along it."""
        last = self.axes[-1]
        pad = self.edges()
        start, end = last.field(outputs)
        at = 2 * (4 - last.dim)
        counts = [axis.outputs(axis.layout.rank) for axis in self.axes[:-1]]
        if end <= start or any(b <= a for a, b in counts):
            shape = [x.shape[0], weight.shape[0], *self._whole_sizes(x, weight)]
            for axis, (low, high) in zip(self.axes[:-1], counts, strict=True):
                shape[axis.dim] = high - low
            shape[last.dim] = max(0, outputs[1] - outputs[0])
            return x.new_empty(shape)
        pad[at], pad[at + 1] = last.zeros((start, end))
        low, high = intersect((start, end), (0, last.layout.total))
        # A field may lie in the padding alone: then it holds nothing of the volume.
        piece = x.narrow(last.dim, *((low - held[0], high - low) if high > low else (0, 0)))
        padded = F.pad(piece, pad) if any(pad) else piece
        own = self.settings
        return F.conv3d(padded, weight, bias, own.stride, self.padding, own.dilation, own.groups)

    def _whole_sizes(self, x: Tensor, weight: Tensor) -> list[int]:
        own, sizes = self.settings, []
        for d in range(3):
            span = own.dilation[d] * (weight.shape[d + 2] - 1) + 1
            room = x.shape[d + 2] + own.before[d] + own.after[d] - span
            sizes.append(max(0, room // own.stride[d] + 1))
        return sizes
