"""Ranks that fit networks for their first one, which alone has data, trees and disk.

The first rank runs a training as if it were alone; whenever a network is to be fitted it sends the
rows, and all ranks fit it together: they share its batches (`models.parallel.shared`), or its
experts are spread over them (`models.parallel.spread`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from models.features import Features
from models.network import Network
from models.parallel.shared import Shared
from models.parallel.spread import Spread
from models.parallel.train import joined
from models.predictor import there
from models.training.cache import Table
from models.training.fit import Plan, fit
from models.training.learner import Learners

_TREES_S: Final = 86_400.0
"""How long ranks wait for the first one, which grows trees between two networks."""


class Alone(ValueError):
    """There is one rank, and a team has two or more."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What followers are told before the arrays of a fit.

    Attributes:
        plan: Of the fit.
        features: State of the features.
        arrays: Type and shape of each column of the rows, and of what trees say, None for nothing.
    """

    plan: Plan
    features: dict[str, Any]
    arrays: dict[str, tuple[str, tuple[int, ...]] | None]


class Team:
    """Two ranks or more.

    Args:
        group: All of them; each makes its team.
        spread: Whether experts are spread over the ranks; default: they share the batches.
        place: Where this rank's networks live; default, and where experts are spread: the CPU.

    Raises:
        Alone: There is one rank.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        *,
        spread: bool = False,
        place: torch.device | None = None,
    ) -> None:
        if dist.get_world_size(group) < 2:
            raise Alone("one rank is no team; start two or more")
        self._group = group
        # Rows lie in memory, and a rank may wait for them for hours: not a GPU's business.
        host = dist.new_group(backend="gloo", timeout=timedelta(seconds=_TREES_S))
        assert isinstance(host, dist.ProcessGroup)
        self._host = host
        self._learners: Learners = (
            partial(Spread, group=group)
            if spread
            else partial(Shared, group=group, place=place or torch.device("cpu"))
        )

    @property
    def leads(self) -> bool:
        """Whether this is the first rank."""
        return dist.get_rank(self._group) == 0

    def fit(
        self,
        table: Table,
        features: Features,
        plan: Plan,
        work: Path,
        taught: NDArray[np.float32] | None = None,
    ) -> Network:
        """`models.training.fit.fit`, by all ranks; called by the first one."""
        columns = {name: getattr(table, name) for name in Table.__slots__}
        arrays: dict[str, NDArray[Any] | None] = columns | {"taught": taught}
        shapes = {k: None if x is None else (x.dtype.str, x.shape) for k, x in arrays.items()}
        self._tell(_Order(plan, features.state_dict(), shapes))
        for array in arrays.values():
            if array is not None:
                self._send(np.ascontiguousarray(array))
        return fit(table, features, plan, work, taught, learners=self._learners)

    def follow(self) -> int:
        """Fit with the first rank until it is done; how many networks. For every other rank."""
        count = 0
        while (order := self._tell(None)) is not None:
            found: dict[str, Any] = {}
            for name, said in order.arrays.items():
                found[name] = None if said is None else np.empty(said[1], said[0])
                if said is not None:
                    self._send(found[name])
            taught = found.pop("taught")
            features = Features()
            features.load_state_dict(order.features)
            fit(Table(**found), features, order.plan, Path(), taught, learners=self._learners)
            count += 1
        return count

    def dismiss(self) -> None:
        """Let the others go; called by the first rank when it needs no more networks.

        Not after an error: a rank that ends with one takes the others with it, by `torchrun`.
        """
        self._tell(None)

    def _tell(self, order: _Order | None) -> _Order | None:
        said = [order]
        dist.broadcast_object_list(said, group=self._host, group_src=0)
        return said[0]

    def _send(self, array: NDArray[Any]) -> None:
        """The first rank's array into the others'."""
        if array.size:
            whole = torch.from_numpy(array.reshape(-1).view(np.uint8))
            dist.broadcast(whole, group=self._host, group_src=0)


def launched() -> bool:
    """Whether `torchrun` has started this process."""
    return dist.is_torchelastic_launched()


def place_of(devices: Sequence[str], local_rank: int) -> str:
    """The device of a rank of this machine: `cpu`, `cuda:N`, or the next GPU for each `cuda`.

    Raises:
        models.predictor.NoSuchDevice: A GPU is not there.
    """
    name = devices[local_rank % len(devices)]
    if name == "cuda":
        name = f"cuda:{local_rank % max(torch.cuda.device_count(), 1)}"
    return there(name)


@contextmanager
def joined_team(devices: Sequence[str], *, spread: bool) -> Iterator[Team]:
    """The team of all ranks that `torchrun` has started.

    Args:
        devices: Of the ranks of a machine, taken in turns.
        spread: See `Team`.

    Raises:
        Alone: There is one rank.
        models.predictor.NoSuchDevice: A GPU is not there.
    """
    group, place = joined(place_of(devices, dist.get_node_local_rank(0)), _TREES_S)
    try:
        yield Team(group, spread=spread, place=place)
    finally:
        dist.destroy_process_group()
