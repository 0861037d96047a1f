"""The systems of hybrid parallelism, each measured on local processes beside what it replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist

from models import ops
from models.federated import bench as federated_bench
from models.parallel import (
    experts_bench,
    gradients_bench,
    ranks,
    spatial_bench,
    transport_bench,
    volumes_bench,
)
from models.parallel.measured import Row

SYSTEMS: Final = ("experts", "convolution", "reshard", "gradients", "secure-sum", "transport")


def run(
    systems: Sequence[str], world: int, device: str = "cpu", kernels: Path | None = None
) -> Iterator[tuple[str, list[Row]]]:
    """Measure some of `SYSTEMS`, one after the other; a name and its rows as each is done.

    Args:
        systems: Some of `SYSTEMS`.
        world: Local processes of those that are collectives.
        device: "cpu" joins them by gloo over loopback, "cuda" by NCCL, a device each.
        kernels: Library for `ops.load`, in every rank.
    """
    for name in systems:
        if name == "secure-sum":
            yield name, federated_bench.measure()
        elif name == "transport":
            yield name, transport_bench.measure(device)
        else:
            yield name, ranks.run(_collective, world, name, kernels, device=device)


def _collective(device: torch.device, name: str, kernels: Path | None) -> list[Row]:
    ops.load(kernels)
    return _COLLECTIVE[name](device)


def _experts(device: torch.device) -> list[Row]:
    del device  # the group's own
    assert dist.group.WORLD is not None
    return experts_bench.measure(dist.group.WORLD)


_COLLECTIVE: Final[dict[str, Callable[[torch.device], list[Row]]]] = {
    "experts": _experts,
    "convolution": spatial_bench.measure,
    "reshard": volumes_bench.measure,
    "gradients": gradients_bench.measure,
}
