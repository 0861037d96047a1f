"""Gradient compression loses nothing for good, codes exactly, and sends a thousandth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.parallel import ranks
from models.parallel.gradients import (
    TopKConfig,
    TopKState,
    largest,
    topk_hook,
)
from models.parallel.sparse_code import (
    rice_bytes,
    rice_decode,
    rice_encode,
    values_bytes,
    values_decode,
    values_encode,
)

WORLD = 3


@given(
    st.integers(1, 5000).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))
    )
)
def test_any_set_of_indices_survives_its_code_within_the_stated_bytes(
    case: tuple[int, set[int]],
) -> None:
    """Clustered, sparse or complete: the code's length depends on the counts alone."""
    total, chosen = case
    indices = np.array(sorted(chosen), np.int64)

    code = rice_encode(indices, total)

    assert len(code) == rice_bytes(len(indices), total)
    assert np.array_equal(rice_decode(code, len(indices), total), indices)


def test_a_foreign_code_is_refused() -> None:
    """Bytes of another count or with too many indices raise instead of moving weights."""
    with pytest.raises(ValueError, match="do not code"):
        rice_decode(np.zeros(3, np.uint8), 5, 1000)
    with pytest.raises(ValueError, match="instead of"):
        rice_decode(np.zeros(rice_bytes(5, 1000), np.uint8), 5, 1000)


def test_an_entry_of_a_thousandth_takes_less_than_21_bits() -> None:
    """8 bits of value and under 12 of index: 800 times less than dense at 4 ranks."""
    count, total = 1000, 1_000_000

    assert (values_bytes(count, 8) + rice_bytes(count, total)) * 8 / count < 20.2


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300), st.sampled_from([8, 16]))
def test_a_value_s_code_is_close_to_the_value(numbers: list[float], bits: int) -> None:
    """Within half a step of what is sent, with its sign; zero stays zero."""
    values = torch.tensor(numbers)

    code = values_encode(values, bits)
    again = values_decode(code, bits)

    assert code.numel() == values_bytes(len(numbers), bits)
    size, top = values.abs(), values.abs().max()
    near = size >= 1e-6 * top if bits == 8 else size > 1e-37
    assert ((again - values).abs()[near] <= 0.06 * size[near]).all()
    assert (again.abs() <= 1.01 * top).all()
    assert (again[values == 0] == 0).all()


@given(st.integers(1, 4000), st.integers(0, 2**31), st.floats(0.001, 1.0))
def test_the_largest_entries_are_those_of_a_full_ranking(n: int, seed: int, share: float) -> None:
    """Blocks first or not, the magnitudes chosen are the same; NaN counts as the largest."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    if seed % 3 == 0:
        x[seed % n] = torch.nan
    count = max(1, round(n * share))

    chosen = largest(x, count)

    assert (chosen.diff() > 0).all()
    want = x.abs().topk(count).values
    assert torch.equal(
        x[chosen].abs().sort().values.nan_to_num(9), want.sort().values.nan_to_num(9)
    )


def test_warm_up_falls_from_its_ratio_to_the_final_one() -> None:
    """The first step sends a quarter, the last of the warm-up nearly a thousandth."""
    config = TopKConfig(ratio=0.001, warmup_steps=10, warmup_ratio=0.25)

    ratios = [config.ratio_at(step) for step in range(12)]

    assert ratios[0] == pytest.approx(0.25)
    assert all(a >= b for a, b in pairwise(ratios))
    assert ratios[10] == ratios[11] == 0.001


@pytest.mark.parametrize(
    "bad", [{"ratio": 0.0}, {"momentum": 1.0}, {"clip_norm": -1.0}, {"value_bits": 4}]
)
def test_settings_out_of_bounds_are_refused(bad: dict[str, float]) -> None:
    """A sentence names the setting and its bounds."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        TopKConfig(**bad)  # type: ignore[arg-type]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1))


def _data(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 20, generator=generator)
    y = (x[:, :5].sum(1, keepdim=True) > 0).float()
    return x[rank::world], y[rank::world]


def _train(
    steps: int, config: TopKConfig, rank: int, resume_at: int | None = None
) -> tuple[torch.Tensor, TopKState]:
    """Weights after some steps, and the hook's state; optionally saved and loaded on the way."""
    model = _model()
    x, y = _data(rank, WORLD)

    def wrap(saved: dict | None) -> tuple[DistributedDataParallel, TopKState, torch.optim.SGD]:
        ddp = DistributedDataParallel(model, bucket_cap_mb=0.002)
        state = TopKState(model.named_parameters(), config)
        if saved:
            state.load_state_dict(saved)
        ddp.register_comm_hook(state, topk_hook)
        return ddp, state, torch.optim.SGD(ddp.parameters(), lr=0.1)

    ddp, state, optimiser = wrap(None)
    for step in range(steps):
        if step == resume_at:
            ddp, state, optimiser = wrap(state.state_dict())
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(ddp(x), y).backward()
        optimiser.step()
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]), state


def _loss(weights: torch.Tensor) -> float:
    model = _model()
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    x, y = _data(0, 1)
    return float(nn.functional.binary_cross_entropy_with_logits(model(x), y))


def _run(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    dense, _ = _train(60, TopKConfig(ratio=1.0, momentum=0.0, value_bits=16), rank)
    plain = _model()
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    x, y = _data(0, 1)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(plain(x), y).backward()
        optimiser.step()
    reference = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    sparse, state = _train(400, TopKConfig(ratio=0.02, momentum=0.9, warmup_steps=20), rank)
    straight, _ = _train(40, TopKConfig(ratio=0.02), rank)
    resumed, _ = _train(40, TopKConfig(ratio=0.02), rank, resume_at=17)
    torch.save(
        {
            "dense": float((dense - reference).abs().max()),
            "loss": _loss(sparse),
            "ratio": state.dense_bytes / state.sent_bytes,
            "resumed": torch.equal(straight, resumed),
            "same": sparse,
        },
        f"{out}.{rank}",
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank of three processes found."""
    folder: Path = tmp_path_factory.mktemp("gradients")
    ranks.start(_run, WORLD, str(folder / "store"), str(folder / "out"))
    return [torch.load(folder / f"out.{rank}") for rank in range(WORLD)]


def test_sending_everything_is_data_parallel_training(trained: list[dict]) -> None:
    """At ratio 1 only bfloat16's rounding differs, and that is kept and sent later."""
    assert max(one["dense"] for one in trained) < 2e-3


def test_sending_a_fiftieth_still_learns(trained: list[dict]) -> None:
    """The task is learned, from a few per cent of the bytes."""
    assert trained[0]["loss"] < 0.1
    assert trained[0]["ratio"] > 15


def test_ranks_hold_the_same_weights(trained: list[dict]) -> None:
    """Every rank decodes the same updates."""
    assert all(torch.equal(one["same"], trained[0]["same"]) for one in trained)


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(trained: list[dict]) -> None:
    """The memory of what was not sent survives a checkpoint and a new DDP with new buckets."""
    assert all(one["resumed"] for one in trained)


def _short_trainings(_: int, folder: str) -> None:
    """Trainings of one step, whose group ends with them."""
    torch.set_num_threads(1)
    for turn in range(200):
        store = f"file://{folder}/{turn}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        layer = nn.Linear(4, 4)
        ddp = DistributedDataParallel(layer)
        state = TopKState(layer.named_parameters(), TopKConfig(ratio=0.1), dist.group.WORLD)
        ddp.register_comm_hook(state, topk_hook)
        ddp(torch.ones(1, 4)).sum().backward()
        dist.destroy_process_group()
        del ddp, state, layer


def test_a_training_that_ends_is_not_aborted(tmp_path: Path) -> None:
    """Gloo's thread keeps nothing of the group that it would then take down itself."""
    ranks.start(_short_trainings, 1, str(tmp_path))


@pytest.mark.parametrize("masking", [False, True])
def test_what_was_sent_and_what_is_kept_are_dense_training(masking: bool, tmp_path: Path) -> None:
    """Momentum SGD at a falling rate, whose gradients do not depend on the weights: at no ratio is
    an update lost or shrunk on its way, but where momentum is masked.
    """
    steps, size, rate = 60, 400, 0.5
    x = torch.randn(steps, size, generator=torch.Generator().manual_seed(3))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        layer = _Weights(size)
        ddp = DistributedDataParallel(layer)
        optimiser = torch.optim.SGD(layer.parameters(), rate)
        config = TopKConfig(ratio=0.01, masking=masking)
        state = TopKState(layer.named_parameters(), config, optimiser=optimiser)
        ddp.register_comm_hook(state, topk_hook)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 1e-6)
        dense, velocity = torch.zeros(size), torch.zeros(size)
        for row in x:
            optimiser.zero_grad()
            ddp(row).backward()
            velocity = config.momentum * velocity + row
            dense -= optimiser.param_groups[0]["lr"] * velocity
            optimiser.step()
            fall.step()
        sent = layer.weight.detach()
        kept = state.memory(layer.weight).residual
    finally:
        dist.destroy_process_group()

    assert float(kept.abs().max()) > 0.1  # much has not been sent
    assert torch.allclose(sent - kept, dense, rtol=1e-4, atol=1e-4) is not masking


def test_a_rate_of_nothing_is_refused() -> None:
    """What is sent would be lost."""
    layer = _Weights(3)
    state = TopKState(
        layer.named_parameters(), optimiser=torch.optim.SGD(layer.parameters(), lr=0.0)
    )
    with pytest.raises(ValueError, match="positive learning rate"):
        state.rate(layer.weight)


class _Weights(nn.Module):
    """By default as many weights as the shipped network has, and next to no work."""

    def __init__(self, size: int = 193_304) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sum()


def _sent(device: torch.device, steps: int) -> list[float]:
    """Bytes that left the sockets of all ranks in some steps, dense and at 0.1 %."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    found = []
    for thin in (False, True):
        ddp = DistributedDataParallel(_Weights())
        if thin:
            ddp.register_comm_hook(TopKState(ddp.module.named_parameters()), topk_hook)
        x = torch.randn(193_304, generator=generator)
        for step in range(steps + 1):  # the first also tells the ranks of one another
            if step == 1:
                before = ranks.socket_bytes()
            ddp(x).backward()
        dist.barrier()
        found.append(ranks.total(ranks.socket_bytes() - before, device))
    return found


def test_at_a_thousandth_five_hundred_times_fewer_bytes_leave_the_sockets() -> None:
    """Of 4 ranks, as the kernel counts them: values, indices and the library's headers."""
    dense, thin = ranks.run(_sent, 4, 20)

    assert dense >= 20 * 2 * 3 * 193_304 * 4
    assert dense / thin > 500
