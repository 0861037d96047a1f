"""A training whose batches ranks share ends where that of one process ends."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from models.features import Features
from models.federated import learning
from models.network import Network
from models.parallel.ranks import start
from models.parallel.shared import Shared, fitter_on
from models.parallel.team import Alone, Team, place_of
from models.predictor import NoSuchDevice
from models.training.fit import Plan, fit
from models.training.learner import Alone as Learner
from models.training.learner import Learners
from tests.models.parallel.lessons import table, taught

WORLD = 3
CPU = torch.device("cpu")
PLAN = Plan(epochs=2, seed=1)


def _fitted(work: Path, learners: Learners) -> torch.Tensor:
    network = fit(table(), Features(), PLAN, work, taught(), learners=learners)
    return torch.from_numpy(learning.flat(network))


def _run(rank: int, store: str, folder: str) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    groups = {n: dist.new_group(list(range(n))) for n in (2, 3)}
    said: dict[str, Any] = {}
    work = Path(folder) / f"of {rank}"
    for world, group in groups.items():
        if rank < world:
            ranks = partial(Shared, group=group, place=CPU)
            said[f"by {world}"] = _fitted(work, ranks)
            # The last epoch's state of a longer plan is what a killed run of it leaves.
            said[f"again by {world}"] = _fitted(work, ranks)
    said["kept"] = sorted(path.name for path in work.glob("*"))
    torch.manual_seed(rank)
    started = Network()
    learner = Shared(started, 4, group=groups[3], place=CPU)
    said["start"] = torch.from_numpy(learning.flat(learner.trained()))
    state = learner.state() if learner.leads else {}
    torch.manual_seed(10 + rank)
    other = Shared(Network(), 4, group=groups[3], place=CPU)
    other.load(state)
    said["loaded"] = torch.from_numpy(learning.flat(other.trained()))
    said["agreed"] = learner.agreed(5 + rank)
    team = Team(groups[3])
    if team.leads:
        network = team.fit(table(), Features(), PLAN, work / "team", taught())
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
        return _fitted(tmp_path_factory.mktemp("alone"), Learner)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three processes ended with."""
    folder = tmp_path_factory.mktemp("shared")
    start(_run, WORLD, str(folder / "store"), str(folder))
    return [torch.load(folder / f"out.{rank}") for rank in range(WORLD)]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_that_share_batches_train_what_one_process_trains(
    world: int, alone: torch.Tensor, ranks: list[dict[str, Any]]
) -> None:
    """The shipped recipe, batches that do not divide: the same network on every rank."""
    for one in ranks[:world]:
        assert torch.equal(one[f"by {world}"], ranks[0][f"by {world}"])
        assert float((one[f"by {world}"] - alone).abs().max()) < 1e-4
    begun = torch.from_numpy(learning.flat(Network()))
    assert float((alone - begun).abs().max()) > 0.1


def test_the_first_rank_alone_keeps_the_state_that_all_go_on_from(
    ranks: list[dict[str, Any]],
) -> None:
    """A finished training says the same again; the first rank's network and state are all's."""
    assert len(ranks[0]["kept"]) == 2 and not ranks[1]["kept"] and not ranks[2]["kept"]
    for world in (2, 3):
        for one in ranks[:world]:
            assert torch.equal(one[f"again by {world}"], one[f"by {world}"])
    for one in ranks:
        assert torch.equal(one["start"], ranks[0]["start"])
        assert torch.equal(one["loaded"], ranks[0]["start"])
        assert one["agreed"] == 5


def test_a_team_shares_batches_for_its_first_rank(
    alone: torch.Tensor, ranks: list[dict[str, Any]]
) -> None:
    """The others need no rows of their own, and are let go in the end."""
    assert float((ranks[0]["team"] - alone).abs().max()) < 1e-4
    assert ranks[1]["followed"] == ranks[2]["followed"] == 1


def test_a_rank_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns; plain `cuda` is the next GPU; one that is not there is told."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [place_of(["cpu"], rank) for rank in range(2)] == ["cpu", "cpu"]
    assert [place_of(["cuda"], rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [place_of(["cuda:1", "cuda:0"], rank) for rank in range(2)] == ["cuda:1", "cuda:0"]
    with pytest.raises(NoSuchDevice, match="has 2 GPUs"):
        place_of(["cuda:2"], 0)


def test_one_device_trains_what_one_process_trains(alone: torch.Tensor, tmp_path: Path) -> None:
    """Rows and losses on the CPU, the network wherever: on a CPU these are the same bits."""
    threads = torch.get_num_threads()
    said = _fitted(tmp_path, partial(Shared, place=CPU))
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    assert torch.equal(said, alone)


def test_one_rank_is_no_team(tmp_path: Path) -> None:
    """It trains without one."""
    assert fitter_on("cpu") is fit
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        with pytest.raises(Alone, match="no team"):
            Team(dist.group.WORLD)
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_what_the_cpu_trains(alone: torch.Tensor, tmp_path: Path) -> None:
    """Up to the order of sums, and the same bits again."""
    said = []
    for name in ("a", "b"):
        network = fitter_on("cuda:0")(table(), Features(), PLAN, tmp_path / name, taught())
        said.append(torch.from_numpy(learning.flat(network)))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(*said)
    assert float((said[0] - alone).abs().max()) < 1e-3
