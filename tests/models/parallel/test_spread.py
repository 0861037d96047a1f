"""A training whose experts are owned by ranks ends where that of one process ends."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.derived import X
from models.features import Features
from models.federated import learning, lesson
from models.network import RISKS, Network, NetworkConfig
from models.parallel.ranks import start
from models.parallel.specialists import Specialist
from models.parallel.spread import Spread, same_shape
from models.parallel.team import Alone, Team
from models.training.fit import Plan, fit
from models.training.learner import Alone as Learner
from tests.models.parallel.lessons import table, taught

WORLD = 3


def _fitted(work: Path, group: dist.ProcessGroup | None, epochs: int = 2) -> torch.Tensor:
    plan = Plan(epochs=epochs, seed=1)
    learners = Learner if group is None else partial(Spread, group=group)
    network = fit(table(), Features(), plan, work, taught(), learners=learners)
    return torch.from_numpy(learning.flat(network))


def _learnt(group: dist.ProcessGroup, stopped: int | None) -> torch.Tensor:
    """Six steps, of which another learner takes those after a stop."""
    rows, learner = table(), Spread(Network(), 6, group)
    for step in range(6):
        if step == stopped:
            state = learner.state()
            learner = Spread(Network(), 6, group)
            learner.load(state)
        torch.manual_seed(step)
        learner.network.train()
        network = cast("Network", learner.network)
        learner.step(lesson.loss(network, rows, np.arange(100 * step, 100 * step + 100)))
    return torch.from_numpy(learning.flat(learner.trained()))


def _run(rank: int, store: str, folder: str) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    groups = {n: dist.new_group(list(range(n))) for n in (2, 3)}
    said: dict[str, Any] = {}
    work = Path(folder)
    for world, group in groups.items():
        if rank < world:
            said[f"over {world}"] = _fitted(work / f"of {rank}", group)
            said[f"again over {world}"] = _fitted(work / f"of {rank}", group)
    said["kept"] = sorted(path.name for path in (work / f"of {rank}").glob("*"))
    torch.manual_seed(5)
    said["straight"] = _learnt(groups[3], None)
    torch.manual_seed(5)
    said["stopped"] = _learnt(groups[3], 3)
    learner = Spread(Network(), 10, groups[3])
    said["trained"] = sum(p.numel() for p in learner.parameters())
    with pytest.raises(ValueError, match="rank 1's network is of another shape") as wrong:
        same_shape(Network(NetworkConfig(general=(192 + 8 * (rank == 1), 64))), groups[3])
    said["wrong"] = str(wrong.value)
    team = Team(groups[3], spread=True)
    if team.leads:
        plan = Plan(epochs=2, seed=1)
        for number in range(2):
            network = team.fit(
                table(), Features(), plan, work / f"team {number}", taught() if number else None
            )
        said["team"] = torch.from_numpy(learning.flat(network))
        team.dismiss()
    else:
        said["followed"] = team.follow()
    torch.save(said, f"{folder}/out.{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Weights that one process ends with; leaves torch as it was."""
    threads = torch.get_num_threads()
    try:
        return _fitted(tmp_path_factory.mktemp("alone"), None)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three processes ended with."""
    folder = tmp_path_factory.mktemp("spread")
    start(_run, WORLD, str(folder / "store"), str(folder))
    return [torch.load(folder / f"out.{rank}") for rank in range(WORLD)]


@pytest.mark.parametrize("world", [2, 3])
def test_experts_over_ranks_are_trained_as_in_one_process(
    world: int, alone: torch.Tensor, ranks: list[dict[str, Any]]
) -> None:
    """The shipped recipe with teachers, a gate that is kept and averaged weights; on every rank
    the one whole network.
    """
    for one in ranks[:world]:
        assert torch.equal(one[f"over {world}"], ranks[0][f"over {world}"])
        assert float((one[f"over {world}"] - alone).abs().max()) < 1e-4
    start = torch.from_numpy(learning.flat(Network()))
    assert float((alone - start).abs().max()) > 0.1


def test_a_rank_trains_the_experts_that_it_owns(ranks: list[dict[str, Any]]) -> None:
    """Three specialists over three ranks: a third each."""
    one = sum(p.numel() for p in Specialist(X, NetworkConfig().special, len(RISKS)).parameters())
    whole = sum(p.numel() for p in Network().parameters())
    assert [rank["trained"] for rank in ranks] == [whole - 2 * one] * WORLD


def test_the_first_rank_alone_keeps_a_state_that_all_go_on_from(
    ranks: list[dict[str, Any]],
) -> None:
    """A finished training is not trained again, and says the same; a state of each world."""
    assert len(ranks[0]["kept"]) == 2 and not ranks[1]["kept"] and not ranks[2]["kept"]
    for world in (2, 3):
        for one in ranks[:world]:
            assert torch.equal(one[f"again over {world}"], one[f"over {world}"])


def test_a_stopped_training_goes_on_as_if_it_had_not(ranks: list[dict[str, Any]]) -> None:
    """Moments, rate and averages of every rank come back from the first one."""
    for one in ranks:
        assert torch.equal(one["stopped"], one["straight"])


def test_ranks_of_other_shapes_all_say_so(ranks: list[dict[str, Any]]) -> None:
    """The same sentence on every rank, which names the rank and the tensor."""
    assert len({one["wrong"] for one in ranks}) == 1
    assert "bias is (344,), not (336,)" in ranks[0]["wrong"]


def test_a_team_fits_for_its_first_rank(alone: torch.Tensor, ranks: list[dict[str, Any]]) -> None:
    """The others need no rows of their own, and are let go in the end."""
    assert float((ranks[0]["team"] - alone).abs().max()) < 1e-4
    assert ranks[1]["followed"] == ranks[2]["followed"] == 2


def test_what_cannot_be_spread_is_refused(tmp_path: Path) -> None:
    """One rank alone, and a network without a mixture."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        assert group is not None
        with pytest.raises(ValueError, match="one rank"):
            Spread(Network(), 10, group)
        with pytest.raises(Alone, match="one rank"):
            Team(group)
        with pytest.raises(ValueError, match="without a mixture"):
            spread = partial(Spread, group=group)
            fit(table(), Features(), Plan(), tmp_path, dense=True, learners=spread)
    finally:
        dist.destroy_process_group()
