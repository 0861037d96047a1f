"""Training over ranks has the losses and weights of one process: rows, specialists, hospitals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.features import D, E, F, V
from models.federated import learning
from models.federated.strategy import Strategy
from models.network import RISKS, Network
from models.parallel.hospitals import Hospitals, SplitLearner
from models.parallel.ranks import start
from models.parallel.specialists import expert_parallel
from models.parallel.train import THINNED_RATE, Plan, Stepper, main, train
from models.signals import COUNT
from models.training.cache import Table

WORLD = 4
ROUNDS = 2
PLANS = {
    "rows": (3, Plan(epochs=2, batch=50)),
    "specialists": (2, Plan(epochs=2, batch=50, experts=True)),
    "one specialist a row": (4, Plan(epochs=2, batch=50, experts=True, top=1)),
    "fewer rows than ranks": (4, Plan(batch=61, experts=True, top=2)),
}


def _table(seed: int, rows: int = 123) -> Table:
    """Rows that look like those of recorded sets, with labels that can be learnt."""
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((rows, COUNT, D)).astype(np.float16)
    labels = (signals[:, : len(RISKS), 0] > 0.5).astype(np.int8)
    labels[rng.random(labels.shape) < 0.3] = -1
    numbers = np.arange(rows, dtype=np.int64)
    zeros = np.zeros(rows, np.int8)
    given = {
        "signals": signals,
        "minutes": rng.standard_normal((rows, V, E)).astype(np.float16),
        "case": rng.standard_normal((rows, F)).astype(np.float16),
        "labels": labels,
        "stay": numbers,
        "hour": numbers,
        "expert": rng.integers(-1, 4, rows).astype(np.int8),
    }
    return Table(**{name: given.get(name, zeros) for name in Table.__slots__})


def _network() -> Network:
    torch.manual_seed(5)
    return Network()


def _learnt(plan: Plan, group: dist.ProcessGroup | None) -> dict[str, Any]:
    network, losses = train(_network(), _table(0), plan, group)
    return {"weights": torch.from_numpy(learning.flat(network)), "losses": losses}


def _federated(group: dist.ProcessGroup | None, hospital: int, top: int | None) -> SplitLearner:
    return SplitLearner(
        _network(), _table(10 + hospital, 60 + 40 * hospital), group, rate=1e-3, top=top
    )


def _run(rank: int, store: str, out: str) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    groups = {n: dist.new_group(list(range(n))) for n in (2, 3, 4)}
    said: dict[str, Any] = {
        name: _learnt(plan, groups[world]) for name, (world, plan) in PLANS.items() if rank < world
    }
    if rank < 2:
        said["sparse"] = _learnt(Plan(epochs=8, batch=50, ratio=0.5, rate=0.1), groups[2])
    split = expert_parallel(_network(), groups[4])
    signals, minutes, case = (torch.from_numpy(x[rank::4].astype(np.float32)) for x in _features())
    with torch.no_grad():
        said["answer"] = split.eval()(signals, minutes, case).logits
    said["whole"] = torch.from_numpy(learning.flat(split.whole()))
    hospitals = Hospitals(2)
    learner = _federated(hospitals.group, hospitals.number, None)
    start = learning.flat(_network())
    said["federated"] = torch.from_numpy(hospitals.rounds(learner, start, ROUNDS))
    torch.save(said, f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _features() -> tuple[np.ndarray, ...]:
    table = _table(3, 30)
    return table.signals, table.minutes, table.case


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes learnt."""
    folder: Path = tmp_path_factory.mktemp("train")
    start(_run, WORLD, str(folder / "store"), str(folder / "out"))
    return [torch.load(folder / f"out.{rank}") for rank in range(WORLD)]


@pytest.mark.parametrize("name", PLANS)
def test_training_over_ranks_is_training_in_one_process(
    name: str, ranks: list[dict[str, Any]]
) -> None:
    """Each step's loss and the weights at the end, on every rank, of the same global batches."""
    world, plan = PLANS[name]
    torch.set_num_threads(1)
    alone = _learnt(plan, None)

    for one in ranks[:world]:
        assert np.allclose(one[name]["losses"], alone["losses"], rtol=1e-5, atol=0)
        assert float((one[name]["weights"] - alone["weights"]).abs().max()) < 1e-5


def test_compressed_gradients_are_an_option_of_training_over_ranks(
    ranks: list[dict[str, Any]],
) -> None:
    """The hook carries them; ranks end with the same weights."""
    first, second = (one["sparse"] for one in ranks[:2])
    assert torch.equal(first["weights"], second["weights"])
    assert np.mean(first["losses"][-3:]) < np.mean(first["losses"][:3]) - 0.05


def test_thinning_out_is_warmed_up_over_a_fifth_of_the_steps(tmp_path: Path) -> None:
    """From a quarter of the gradient to what was asked for: one rank is enough to see it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        plan = Plan(ratio=0.01, rate=THINNED_RATE)
        stepper = Stepper(_network(), plan, dist.group.WORLD, steps=20)
        before = learning.flat(stepper.whole())
        moved = []
        for at in np.array_split(np.arange(123), 6):
            stepper.step(_table(0), at)
            after = learning.flat(stepper.whole())
            moved.append(float((after != before).mean()))
            before = after
    finally:
        dist.destroy_process_group()

    assert moved[0] == pytest.approx(0.25, rel=0.1)
    assert moved[0] > moved[1] > moved[2] > moved[3] > moved[4]
    assert moved[5] == pytest.approx(0.01, rel=0.1)


def test_a_spread_network_says_what_the_whole_one_says(ranks: list[dict[str, Any]]) -> None:
    """Answers of four ranks' own rows; and the whole network comes back bit for bit."""
    signals, minutes, case = (torch.from_numpy(x.astype(np.float32)) for x in _features())
    network = _network().eval()
    with torch.no_grad():
        want = network(signals, minutes, case).logits
    for rank, one in enumerate(ranks):
        assert float((one["answer"] - want[rank::4]).abs().max()) < 1e-6
        assert torch.equal(one["whole"], torch.from_numpy(learning.flat(network)))


def test_two_hospitals_of_two_ranks_learn_what_one_process_learns(
    ranks: list[dict[str, Any]],
) -> None:
    """Specialists and rows are spread within a hospital, updates averaged between hospitals; the
    reference trains whole networks one after the other with the federation's own learner.
    """
    model, strategy = learning.flat(_network()), Strategy()
    tables = [_table(10 + hospital, 60 + 40 * hospital) for hospital in range(2)]
    for number in range(1, ROUNDS + 1):
        learnt = [
            learning.NetworkLearner(_network(), table, rate=1e-3).train(model, number)
            for table in tables
        ]
        rows = sum(n for _, n in learnt)
        mean = sum(update.astype(np.float64) * n for update, n in learnt) / rows
        model, _ = strategy.step(model, mean, [])

    for one in ranks:
        assert torch.equal(one["federated"], ranks[0]["federated"])
        assert float((one["federated"] - torch.from_numpy(model)).abs().max()) < 1e-5
    assert np.abs(model - learning.flat(_network())).max() > 1e-3


def test_what_cannot_go_together_is_refused() -> None:
    """A sentence names it."""
    with pytest.raises(ValueError, match="compressed"):
        Plan(experts=True, ratio=0.1)
    with pytest.raises(ValueError, match="top"):
        Plan(top=1)
    with pytest.raises(ValueError, match="batch"):
        Plan(batch=0)
    with pytest.raises(ValueError, match="no rows"):
        train(_network(), _table(0).select(np.zeros(123, bool)), Plan())


def test_the_command_trains_over_ranks_of_torchrun(tmp_path: Path) -> None:
    """Two ranks of `torchrun` write the weights, the card and the losses of one process."""
    learning.write(tmp_path / learning.ROWS, _table(0))
    options = ["--data", str(tmp_path), "--batch", "50", "--out"]
    main([*options, str(tmp_path / "alone")])
    command = [sys.executable, "-m", "app.cli", "parallel", "train", "--ranks", "2", "--experts"]
    subprocess.run(
        [*command, *options, str(tmp_path / "spread")],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    alone, both = (
        json.loads((tmp_path / out / "losses.json").read_text()) for out in ("alone", "spread")
    )
    assert len(alone) == 3 and np.allclose(alone, both, rtol=1e-5, atol=0)
    assert json.loads((tmp_path / "spread" / "card.json").read_text())["trained"]["ranks"] == 2
