"""A training whose batches are shared by ranks: each holds the whole network and computes its rows.

Gradients are averaged by DDP. The losses and weights are those of `models.training.learner.Alone`,
up to the order of sums.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from models.network import Network
from models.parallel.batch_split import BatchSplit
from models.parallel.spread import alike
from models.training.fit import Fitter, fit
from models.training.learner import Alone


def fitter_on(device: str) -> Fitter:
    """What fits a network in this process, on its CPU or a GPU."""
    place = torch.device(device)
    return fit if place.type == "cpu" else partial(fit, learners=partial(Shared, place=place))


class Shared(Alone):
    """A learner over ranks, or on one device that is not the CPU.

    Everything but its attributes is a collective where there are ranks.

    Args:
        network: With its gate taught; the first rank's is everyone's.
        steps: Of the whole training.
        group: The ranks; None for this process alone.
        place: Where this rank's network lives. Rows and losses stay on the CPU.

    Raises:
        ValueError: Ranks whose networks have other shapes.
    """

    def __init__(
        self,
        network: Network,
        steps: int,
        *,
        group: dist.ProcessGroup | None = None,
        place: torch.device,
    ) -> None:
        network.to(place)
        if group is not None:
            alike(network, group)
        super().__init__(network, steps)
        self._group, self._place = group, place
        self.kind = "" if place.type == "cpu" else f" on {place.type}"
        if group is None:
            self.network = BatchSplit(network, None)
            return
        self.leads = dist.get_rank(group) == 0
        self.kind += f" by {dist.get_world_size(group)}"
        # Typical values do not change while it trains.
        each = DistributedDataParallel(network, process_group=group, broadcast_buffers=False)
        self.network = BatchSplit(each, group, averaged=True)

    def agreed(self, number: int) -> int:
        """See `models.training.learner.Learner`."""
        if self._group is None:
            return number
        said = torch.tensor([number], device=self._place)
        dist.broadcast(said, group=self._group, group_src=0)
        return int(said)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state that the leading rank gives; others give anything."""
        said = [state]
        if self._group is not None:
            dist.broadcast_object_list(said, group=self._group, group_src=0)
        super().load(said[0])
