"""A training whose experts are owned by ranks: the specialists of the network, their moments and
their averages lie on one rank each, rows travel to them (`models.parallel.experts`).

The losses and weights are those of `models.training.learner.Alone`, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.network import Network
from models.parallel.batch_split import BatchSplit
from models.parallel.specialists import expert_parallel
from models.training.learner import CLIP, averaged, recipe


class Spread:
    """A learner over ranks; everything but its attributes is a collective.

    Args:
        network: With its gate taught; the first rank's is everyone's.
        steps: Of the whole training.
        group: The ranks, two or more.

    Raises:
        ValueError: One rank alone, or ranks whose networks have other shapes.
    """

    def __init__(self, network: Network, steps: int, group: dist.ProcessGroup) -> None:
        world = dist.get_world_size(group)
        if world < 2:
            raise ValueError("one rank has nobody to spread experts over: start two or more")
        alike(network, group)
        self._group, self._split = group, expert_parallel(network, group)
        self.network: nn.Module = BatchSplit(self._split, group)
        self.leads = dist.get_rank(group) == 0
        self.kind = f" over {world}"
        # A gate that was taught before is kept: no decay either.
        self._own = [p for p in self._split.parameters() if p.requires_grad]
        self._optimiser, self._schedule = recipe(self._own, steps)
        self._average = [p.detach().clone() for p in self._own]
        self._steps = 0

    def parameters(self) -> Iterator[nn.Parameter]:
        """What this rank trains: what all hold, and the specialists that it owns."""
        return iter(self._own)

    def agreed(self, number: int) -> int:
        """See `models.training.learner.Learner`."""
        said = torch.tensor([number])
        dist.broadcast(said, group=self._group, group_src=0)
        return int(said)

    def step(self, loss: Tensor) -> None:
        """See `models.training.learner.Learner`; the loss is of all ranks' rows."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._split.sum_gradients()
        self._split.clip_gradients(CLIP)
        self._optimiser.step()
        self._schedule.step()
        for average, one in zip(self._average, self._own, strict=True):
            average.copy_(averaged(average, one.detach(), self._steps))
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """What each rank owns, in order of the ranks; empty where this rank does not lead."""
        mine = {
            "network": self._split.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "steps": self._steps,
        }
        every: list[Any] | None = [None] * dist.get_world_size(self._group) if self.leads else None
        dist.gather_object(mine, every, group=self._group, group_dst=0)
        return {} if every is None else {"ranks": every}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state that the leading rank gives; others give anything."""
        mine: list[Any] = [None]
        every = state["ranks"] if self.leads else None
        dist.scatter_object_list(mine, every, group=self._group, group_src=0)
        found: dict[str, Any] = mine[0]
        self._split.load_state_dict(found["network"])
        self._average = found["average"]
        self._optimiser.load_state_dict(found["optimiser"])
        self._schedule.load_state_dict(found["schedule"])
        self._steps = found["steps"]

    def trained(self) -> Network:
        """The average of the last steps' weights as one network, on every rank."""
        with torch.no_grad():
            for one, average in zip(self._own, self._average, strict=True):
                one.copy_(average)
        return self._split.whole().eval()


def same_shape(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Raise the same ValueError on every rank where networks have other shapes; a collective."""
    mine = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, mine, group=group)
    for rank, other in enumerate(every):
        names = sorted(every[0].keys() | other.keys())
        for name in names:
            first, second = every[0].get(name), other.get(name)
            if first != second:
                raise ValueError(
                    f"rank {rank}'s network is of another shape than rank 0's: {name} is "
                    f"{second or 'not there'}, not {first or 'there'}"
                )


def alike(network: nn.Module, group: dist.ProcessGroup) -> None:
    """Give every rank the first one's tensors; a collective. Raises ValueError as `same_shape`."""
    same_shape(network, group)
    with torch.no_grad():
        for one in network.state_dict().values():
            dist.broadcast(one, group=group, group_src=0)
