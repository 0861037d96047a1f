"""A residual encoder of volumes that are split over ranks: whole and split, it is one network.

Each layer gives a rank's slab of what the whole volume would give: convolutions fetch halos, norms
and pooling sum over the ranks, forward and backward. Weights are the same on every rank; after a
backward pass each rank holds its share of their gradients, and `sum_gradients` makes them whole.

Axes: N volumes, C channels, D, H, W voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from models.parallel.spatial import split_conv3d

Group = dist.ProcessGroup | None
_EPSILON: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Split:
    """How volumes lie over ranks.

    Attributes:
        dims: Split dimensions, of 2, 3 and 4; none where every rank holds the whole.
        groups: For each, its ranks in the order of the slabs.
        everyone: All ranks that hold a part of one volume; over these statistics are summed.
    """

    dims: tuple[int, ...] = ()
    groups: tuple[Group, ...] = ()
    everyone: Group = None

    @classmethod
    def line(cls, dim: int, group: Group = None) -> Split:
        """Split along one dimension."""
        return cls((dim,), (group,), group)

    @classmethod
    def mesh(cls, dims: tuple[int, int], shape: tuple[int, int]) -> Split:
        """Split along two dimensions over all ranks, rank = row * columns + column; a collective
        of all ranks.
        """
        rows, columns = shape
        rank = dist.get_rank()
        if rows * columns != dist.get_world_size():
            raise ValueError(f"a mesh of {rows}x{columns} for {dist.get_world_size()} ranks")
        # Every rank makes every group, also those that it is not in.
        first: list[Any] = [
            dist.new_group([r * columns + c for r in range(rows)]) for c in range(columns)
        ]
        second: list[Any] = [
            dist.new_group([r * columns + c for c in range(columns)]) for r in range(rows)
        ]
        return cls(dims, (first[rank % columns], second[rank // columns]), dist.group.WORLD)

    def slab(self, whole: Tensor) -> Tensor:
        """This rank's part of a volume that every rank has, as even as can be."""
        for dim, group in zip(self.dims, self.groups, strict=True):
            parts = whole.tensor_split(dist.get_world_size(group), dim)
            whole = parts[dist.get_rank(group)]
        return whole.contiguous()


class _Sum(torch.autograd.Function):
    """The sum over ranks; backward sums as well, for every rank's output depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def over_ranks(x: Tensor, split: Split) -> Tensor:
    """Sum over the ranks that hold parts of the volume, differentiable; as it is where unsplit."""
    return _Sum.apply(x, split.everyone) if split.dims else x


class SplitConv3d(nn.Module):
    """A cubic kernel with `same` padding; stride 2 halves every dimension, rounded up."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, split: Split) -> None:
        super().__init__()
        self.stride, self.padding, self.split = stride, kernel // 2, split
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """This rank's slab [N, C, D, H, W] of the whole's convolution."""
        if not self.split.dims:
            return F.conv3d(x, self.weight, stride=self.stride, padding=self.padding)
        return split_conv3d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dim=self.split.dims,
            group=self.split.groups,
        )


class SplitGroupNorm(nn.Module):
    """Group norm of the whole volume: sums over the ranks, about a mean that all have first.

    Two sums rather than one of squares: a difference of large numbers would lose what is sought.
    """

    def __init__(self, groups: int, channels: int, split: Split) -> None:
        super().__init__()
        self.groups, self.split = groups, split
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised slab, of the slab's shape; slabs may be empty."""
        grouped = x.reshape(x.shape[0], self.groups, -1)
        count = over_ranks(x.new_tensor([float(grouped.shape[2])]), self.split)
        mean = over_ranks(grouped.sum(2), self.split) / count
        centred = grouped - mean.unsqueeze(2)
        variance = over_ranks(centred.square().sum(2), self.split) / count
        normed = (centred * torch.rsqrt(variance + _EPSILON).unsqueeze(2)).reshape(x.shape)
        shape = (1, -1, 1, 1, 1)
        return normed * self.weight.view(shape) + self.bias.view(shape)


class _Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, split: Split) -> None:
        super().__init__()
        self.first = SplitConv3d(inputs, outputs, 3, stride, split)
        self.first_norm = SplitGroupNorm(groups, outputs, split)
        self.second = SplitConv3d(outputs, outputs, 3, 1, split)
        self.second_norm = SplitGroupNorm(groups, outputs, split)
        self.short = None
        if stride != 1 or inputs != outputs:
            self.short = SplitConv3d(inputs, outputs, 1, stride, split)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return F.relu(y + (x if self.short is None else self.short(x)))


class Encoder(nn.Module):
    """Volumes to a vector each, the same on every rank.

    1. a convolution of 3^3 and a norm;
    2. a residual block for each of `widths`, the first of full size and each further one halved;
    3. the mean over the whole volume;
    4. a linear layer.

    Args:
        channels: Of the volumes.
        widths: Channels of the blocks; multiples of `groups`.
        outputs: Size of the vector.
        groups: Of the norms.
        split: How the volumes lie over the ranks; the parameters do not depend on it.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (8, 16, 32),
        outputs: int = 1,
        *,
        groups: int = 4,
        split: Split | None = None,
    ) -> None:
        super().__init__()
        self.split = split or Split()
        self.stem = SplitConv3d(channels, widths[0], 3, 1, self.split)
        self.norm = SplitGroupNorm(groups, widths[0], self.split)
        before = (widths[0], *widths)
        self.blocks = nn.Sequential(
            *(
                _Block(before[i], width, 1 if i == 0 else 2, groups, self.split)
                for i, width in enumerate(widths)
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors [N, outputs] of this rank's slabs [N, C, D, H, W]."""
        y = self.blocks(F.relu(self.norm(self.stem(x))))
        count = over_ranks(y.new_tensor([float(y[0, 0].numel())]), self.split)
        pooled = over_ranks(y.sum((2, 3, 4)), self.split) / count
        said: Tensor = self.head(pooled)
        return said

    def sum_gradients(self) -> None:
        """Make every parameter's gradient that of the whole volume; a collective.

        For a loss that every rank computes of the same vectors: `over_ranks` sums its gradient once
        a rank, so that the sum over the ranks counts each slab's as often as there are ranks.
        """
        if not self.split.dims:
            return
        world = dist.get_world_size(self.split.everyone)
        flat = torch.cat([_gradient(p).reshape(-1) for p in self.parameters()])
        dist.all_reduce(flat, group=self.split.everyone)
        torch.nn.utils.vector_to_parameters(flat / world, [_gradient(p) for p in self.parameters()])


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
