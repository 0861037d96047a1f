"""How a network of a training learns from one loss: its optimiser, its rate, the average of its
weights. `models.parallel.shared` and `models.parallel.spread` do the same over ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from models.network import Network

RATE: Final = 2e-3
DECAY: Final = 0.3
CLIP: Final = 1.0
AVERAGE: Final = 0.998
"""What the average of the weights keeps at each step."""


class Learner(Protocol):
    """What `fit` trains.

    Attributes:
        network: From features of a whole batch to what it says, and with their `absent_D`.
        leads: Whether this process keeps the state on disk and shows how far it is.
        kind: Tells its states from those of other learners; empty for one process on its CPU.
    """

    @property
    def network(self) -> nn.Module: ...

    @property
    def leads(self) -> bool: ...

    @property
    def kind(self) -> str: ...

    def agreed(self, number: int) -> int:
        """The number that the leading process gives, on all of them."""

    def step(self, loss: Tensor) -> None:
        """Learn from the loss of a batch."""

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs, where this process leads."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def trained(self) -> Network:
        """The average of the last steps' weights, in serving mode, on the CPU."""


Learners = Callable[[Network, int], Learner]
"""Makes the learner of a network with its gate taught, for so many steps."""


class Alone:
    """A learner in this process.

    Args:
        network: With its gate taught; it is trained in place.
        steps: Of the whole training.
    """

    leads = True
    kind = ""

    def __init__(self, network: Network, steps: int) -> None:
        self.network: nn.Module = network
        self._inner = network
        self._optimiser, self._schedule = recipe(network.parameters(), steps)
        self._average = torch.optim.swa_utils.AveragedModel(network, avg_fn=averaged)

    def agreed(self, number: int) -> int:
        """See `Learner`."""
        return number

    def step(self, loss: Tensor) -> None:
        """See `Learner`."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._inner.parameters(), CLIP)
        self._optimiser.step()
        self._schedule.step()
        self._average.update_parameters(self._inner)

    def state(self) -> dict[str, Any]:
        """See `Learner`."""
        return {
            "network": self._inner.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """See `Learner`."""
        self._inner.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])

    def trained(self) -> Network:
        """See `Learner`."""
        found = self._average.module
        assert isinstance(found, Network)
        return found.cpu().eval()


def recipe(
    parameters: Iterable[nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Optimiser and rate of a training of so many steps."""
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, total_steps=steps, pct_start=0.15
    )
    return optimiser, schedule


def averaged(average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """The plain average of the first steps, then one that forgets."""
    return average + (new - average) * max(1.0 - AVERAGE, 1.0 / (float(count) + 1.0))
