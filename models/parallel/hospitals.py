"""A mixture trained over hospitals, each on several ranks: no rows leave a hospital.

Within a hospital the ranks share its rows and its specialists (`models.parallel.train`). Between
hospitals the first ranks average what their hospitals have learnt, weighted by rows, and every
hospital takes the same step (`models.federated.strategy`). Equal to training each hospital in one
process.

    torchrun --nproc-per-node 4 -m models.parallel.hospitals --hospitals 2 --data A B --out OUT

The averaging here is plain, for ranks that trust each other. Hospitals that do not, three or more,
use `vitalstream federate`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from models.federated import learning
from models.federated.strategy import Strategy, Vector
from models.network import Network
from models.parallel.train import Plan, Stepper, batches, joined
from models.training.cache import Table


class SplitLearner:
    """A hospital's local pass over several ranks: the update of `NetworkLearner`.

    Every rank calls `train` alike, and all get the same.

    Args:
        network: Its buffers are the federation's, its parameters are overwritten.
        table: This hospital's training rows, the same on its ranks.
        group: Its ranks; None for this process alone.
        rate: Learning rate.
        top: How many specialists answer a row; default all.
        place: This rank's device.
        seed: Of order, hiding and dropping.
    """

    def __init__(
        self,
        network: Network,
        table: Table,
        group: dist.ProcessGroup | None,
        *,
        rate: float,
        top: int | None = None,
        place: torch.device | str = "cpu",
        seed: int = 7,
    ) -> None:
        self._network, self._table, self._group = network, table, group
        self._place = place
        # As the federation's own learner.
        self._plan = Plan(
            batch=learning.BATCH, rate=rate, experts=True, top=top, seed=seed, decay=0.02, clip=1.0
        )

    def train(self, model: NDArray[np.float32], number: int) -> tuple[NDArray[np.float32], int]:
        """The update after a pass, and the rows it was learnt from; a collective.

        Raises:
            ValueError: A hospital without rows.
        """
        rows = len(self._table.stay)
        if not rows:
            raise ValueError("a hospital without rows has nothing to learn from")
        torch.set_num_threads(1)
        learning.fill(self._network, model)
        stepper = Stepper(deepcopy(self._network).to(self._place), self._plan, self._group)
        torch.manual_seed(self._plan.seed * 100_003 + number)
        for at in batches(rows, self._plan, number):
            stepper.step(self._table, at)
        return learning.flat(stepper.whole().cpu()) - model, rows


class Hospitals:
    """Ranks of one run as hospitals of as many ranks each, in order; a collective of all ranks.

    Attributes:
        number: Of this rank's hospital.
        group: The ranks of this hospital.
        leader: Whether this rank speaks for it.

    Raises:
        ValueError: The ranks cannot be dealt out evenly.
    """

    def __init__(self, count: int, place: torch.device | str = "cpu") -> None:
        self._place = place
        world, rank = dist.get_world_size(), dist.get_rank()
        if count < 1 or world % count:
            raise ValueError(f"{world} ranks are not {count} hospitals of as many ranks each")
        size = world // count
        self.number, self.leader = rank // size, rank % size == 0
        self.group: dist.ProcessGroup | None = None
        for hospital in range(count):
            made = dist.new_group(list(range(hospital * size, (hospital + 1) * size)))
            if hospital == self.number:
                self.group = _joined(made)
        leaders = dist.new_group(list(range(0, world, size)))
        self._leaders = _joined(leaders) if self.leader else None

    def mean(self, update: NDArray[np.float32], rows: int) -> Vector:
        """The mean of all hospitals' updates by their rows; crosses hospitals once from each."""
        weighted = np.append(update.astype(np.float64) * rows, float(rows))
        total = torch.from_numpy(weighted).to(self._place)
        if self.leader:
            dist.all_reduce(total, group=self._leaders)
        dist.broadcast(total, group=self.group, group_src=0)
        mean: Vector = (total[:-1] / total[-1]).cpu().numpy()
        return mean

    def rounds(
        self,
        learner: SplitLearner,
        start: NDArray[np.float32],
        count: int,
        strategy: Strategy | None = None,
    ) -> NDArray[np.float32]:
        """The model after some rounds, the same on every rank."""
        chosen = strategy or Strategy()
        model, moments = start, chosen.start(len(start))
        for number in range(1, count + 1):
            update, rows = learner.train(model, number)
            model, moments = chosen.step(model, self.mean(update, rows), moments)
        return model


def _joined(group: object) -> dist.ProcessGroup:
    """A new group, of which this rank is one."""
    assert isinstance(group, dist.ProcessGroup)
    return group


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="models.parallel.hospitals", description=__doc__)
    parser.add_argument("--hospitals", type=int, default=2)
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="each hospital's rows.npz or sets"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the weights go")
    parser.add_argument("--model", type=Path, help="weights to start from; default: those shipped")
    parser.add_argument("--fresh", type=int, help="draw the parameters anew by this seed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--top", type=int, help="specialists that answer a row; default: all")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Train on this rank of `torchrun`; rank 0 writes `model.safetensors` and its card.

    Raises:
        ValueError: Other numbers of ranks, hospitals or folders than go together.
    """
    chosen = _arguments(given)
    if len(chosen.data) != chosen.hospitals:
        raise ValueError(f"{len(chosen.data)} folders for {chosen.hospitals} hospitals")
    _, place = joined()
    try:
        hospitals = Hospitals(chosen.hospitals, place)
        network, _ = learning.base(chosen.model, chosen.fresh)
        data, cache = chosen.data[hospitals.number], chosen.out / f"cache-{hospitals.number}"
        # One rank makes a hospital's rows, the others find them made.
        if hospitals.leader:
            table = learning.rows_of(data, cache, network)
        dist.barrier()
        if not hospitals.leader:
            table = learning.rows_of(data, cache, network)
        learner = SplitLearner(
            network, table, hospitals.group, rate=chosen.rate, top=chosen.top, place=place
        )
        model = hospitals.rounds(learner, learning.flat(network), chosen.rounds)
        if dist.get_rank() == 0:
            status = {"succeeded": chosen.rounds, "federation": f"{chosen.hospitals} hospitals"}
            path = chosen.out / "model.safetensors"
            learning.save(network, model, chosen.model, path, status)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
