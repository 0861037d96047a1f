"""Experts spread over real processes answer, and learn, as if they were all in one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from models.moe import Bank, Mixture
from models.parallel.experts import AllToAllDispatch, LocalDispatch, owned
from models.parallel.ranks import start

WORLD = 4
TOLERANCE = 1e-6
TRIALS = 30


def _experts(count: int, width: int, outputs: int, dtype: torch.dtype) -> list[nn.Module]:
    torch.manual_seed(count)
    return [
        nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, outputs)).to(dtype)
        for _ in range(count)
    ]


def _required(
    ids: torch.Tensor, count: int, world: int, rank: int, sizes: tuple[int, int, int]
) -> tuple[int, int]:
    """Bytes that leave a rank for owners, and that come back to it, counted row by row."""
    width, outputs, size = sizes
    out = back = 0
    for row in ids.tolist():
        owners = [next(r for r in range(world) if e in owned(count, world, r)) for e in row]
        elsewhere = [o for o in owners if o != rank]
        out += 8 * len(elsewhere) + size * width * len(set(elsewhere))
        back += size * outputs * len(set(elsewhere))
    return out, back


def _compare(trial: int, group: dist.ProcessGroup) -> dict[str, float]:
    """Largest errors of one random mixture beside the replicated one, and its bytes."""
    rng = random.Random(trial)
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    count, width, outputs = rng.randint(1, 7), rng.randint(1, 9), rng.randint(1, 4)
    top = rng.randint(1, min(3, count))
    sizes = [rng.choice([0, 1, 3, 17]) for _ in range(world)]
    generator = torch.Generator().manual_seed(trial)
    gate = torch.randn(width, count, generator=generator)
    # A bias leaves some experts without a row, or sends every row to one.
    bias = rng.choice([0.0, 3.0, 30.0]) * torch.randn(count, generator=generator)
    rows = torch.randn(sum(sizes), width, generator=generator)
    weight = torch.randn(sum(sizes), outputs, generator=generator)
    start = sum(sizes[:rank])
    mine = slice(start, start + sizes[rank])

    def run(
        mixture: Mixture, rows: torch.Tensor, weight: torch.Tensor, exposed: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        rows = rows.clone().requires_grad_(exposed)
        own = gate.clone().requires_grad_()
        said = mixture(rows, torch.softmax(rows @ own + bias, 1))
        (said * weight).sum().backward()
        return said.detach(), rows.grad, own.grad

    exposed = trial % 3 > 0  # whether rows want a gradient; some ranks may and others not
    whole = _experts(count, width, outputs, torch.float32)
    local = Mixture(Bank(whole, outputs), LocalDispatch(), top)
    want, want_rows, want_gate = run(local, rows, weight, True)
    here = owned(count, world, rank)
    part = _experts(count, width, outputs, torch.float32)[here.start : here.stop]
    bank = Bank(part, outputs, first=here.start, count=count)
    dispatch = AllToAllDispatch(group)
    said, got_rows, got_gate = run(
        Mixture(bank, dispatch, top), rows[mine], weight[mine], exposed or rank == 0
    )
    dist.all_reduce(got_gate, group=group)
    share = torch.softmax(rows[mine] @ gate + bias, 1)
    ids = share.sort(dim=1, descending=True, stable=True).indices[:, :top]
    out, _ = _required(ids, count, world, rank, (width, outputs, 4))
    errors = [_error(said, want[mine]), _error(got_gate, want_gate)]
    if exposed:
        errors.append(_error(got_rows, want_rows[mine]))
    for ours, theirs in zip(part, whole[here.start : here.stop], strict=True):
        errors += [
            _error(a.grad, b.grad)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        ]
    return {
        "error": max(errors),
        "out": dispatch.traffic.out_bytes - out,
        "exchanges": dispatch.traffic.exchanges,
    }


def _error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if not theirs.numel():
        return 0.0
    return float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))


def _back_bytes(group: dist.ProcessGroup) -> tuple[int, int]:
    """Bytes of answers that all ranks send, and that the routing requires of all."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    count, width, outputs = 5, 6, 3
    here = owned(count, world, rank)
    part = _experts(count, width, outputs, torch.float32)[here.start : here.stop]
    dispatch = AllToAllDispatch(group)
    mixture = Mixture(Bank(part, outputs, first=here.start, count=count), dispatch, 2)
    torch.manual_seed(rank)
    share = torch.rand(20 + rank, count)
    with torch.no_grad():
        mixture(torch.randn(20 + rank, width), share)
    ids = share.sort(dim=1, descending=True, stable=True).indices[:, :2]
    said = torch.tensor(
        [dispatch.traffic.back_bytes, _required(ids, count, world, rank, (width, outputs, 4))[1]]
    )
    dist.all_reduce(said, group=group)
    return int(said[0]), int(said[1])


def _coarse(group: dist.ProcessGroup) -> tuple[float, float]:
    """Error of a bfloat16 wire, and its bytes beside those of float32."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    here = owned(4, world, rank)
    torch.manual_seed(0)
    rows, share = torch.randn(33, 64), torch.rand(33, 4)
    said, sizes = [], []
    for wire in (None, torch.bfloat16):
        part = _experts(4, 64, 2, torch.float32)[here.start : here.stop]
        dispatch = AllToAllDispatch(group, wire=wire)
        bank = Bank(part, 2, first=here.start, count=4)
        said.append(Mixture(bank, dispatch, 2)(rows, share).detach())
        sizes.append(dispatch.traffic.out_bytes)
    return _error(said[1], said[0]), sizes[1] / sizes[0]


def _refusals(group: dist.ProcessGroup, other: dist.ProcessGroup) -> list[str]:
    """What a rank says of routings and groups that are wrong on one rank only."""
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    here = owned(4, world, rank)

    def bank(count: int = 4, outputs: int = 2) -> Bank:
        part = _experts(4, 3, 2, torch.float32)[here.start : here.stop]
        return Bank(part, outputs, first=here.start, count=count)

    dispatch = AllToAllDispatch(group)
    rows, share = torch.randn(3, 3), torch.rand(3, 1)
    ids = torch.tensor([[0], [1], [3]])
    bad = rank == 1
    tries = [
        (rows, ids + bad, share, bank()),
        (rows, ids, share / (0.0 if bad else 1.0) * 0.0, bank()),
        (rows, ids, torch.rand(2 if bad else 3, 1), bank()),
        (rows, ids.float() if bad else ids, share, bank()),
        (rows, ids, share, bank(outputs=3 if bad else 2)),
        (torch.randn(3, 4) if bad else rows, ids, share, bank()),
    ]
    said = []
    for given in tries:
        try:
            dispatch(*given)
            said.append("")
        except ValueError as error:
            said.append(str(error))
    try:
        with torch.set_grad_enabled(not bad):
            dispatch(rows, ids, share, bank())
    except ValueError as error:
        said.append(str(error))
    try:
        AllToAllDispatch(other if bad else group, timeout_s=3.0)
    except ValueError as error:
        said.append(str(error))
    return said


def _run(rank: int, store: str, out: str) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    groups = [dist.new_group(list(range(n))) for n in (1, 2, 3, 4)]
    found = [_compare(trial, groups[trial % 4]) for trial in range(TRIALS) if rank <= trial % 4]
    back = _back_bytes(groups[3])
    coarse = _coarse(groups[3])
    # Ranks 0 and 1 are of both groups; the others are not asked.
    refused = _refusals(groups[1], groups[2]) if rank < 2 else []
    torch.save(
        {"found": found, "back": back, "coarse": coarse, "refused": refused}, f"{out}.{rank}"
    )
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of four processes found, in groups of one to four."""
    folder: Path = tmp_path_factory.mktemp("experts")
    start(_run, WORLD, str(folder / "store"), str(folder / "out"))
    return [torch.load(folder / f"out.{rank}") for rank in range(WORLD)]


def test_spread_experts_equal_replicated_ones_forward_and_backward(ranks: list[dict]) -> None:
    """Any number of experts over one to four ranks, also fewer experts than ranks; uneven and
    empty batches, experts without rows, one to three experts a row; gradients of rows, of the gate
    and of the experts.
    """
    assert len(ranks[0]["found"]) == TRIALS
    assert max(one["error"] for rank in ranks for one in rank["found"]) < TOLERANCE


def test_the_bytes_on_the_wire_are_those_the_routing_requires(ranks: list[dict]) -> None:
    """A row travels once to each other rank that answers it, with 8 bytes an expert; one row of
    answers comes back; rows of a rank's own experts stay.
    """
    assert all(one["out"] == 0 for rank in ranks for one in rank["found"])
    sent, required = ranks[0]["back"]
    assert sent == required > 0


def test_a_pass_is_one_exchange_there_and_one_back(ranks: list[dict]) -> None:
    """Two exchanges forward and two backward, whatever the number of experts of a row."""
    assert {one["exchanges"] for rank in ranks for one in rank["found"]} == {4}


def test_a_coarse_wire_is_a_choice_that_halves_the_rows(ranks: list[dict]) -> None:
    """bfloat16 keeps two digits; without it the wire is exact."""
    error, ratio = ranks[0]["coarse"]
    assert 0.0 < error < 2e-2
    assert 0.5 < ratio < 0.55


def test_a_mistake_of_one_rank_is_told_on_every_rank(ranks: list[dict]) -> None:
    """Nobody waits for a rank that has refused."""
    mistaken, told = ranks[1]["refused"], ranks[0]["refused"]
    for part, sentence in zip(
        (
            "expert 1 or 4 does not exist",
            "share of row 0",
            "must be [B, K]",
            "must be int64",
            "",
            "",
            "",
            "",
        ),
        mistaken,
        strict=True,
    ):
        assert part in sentence and sentence
    assert told[:4] == ["rank 1 was given a routing that it refused"] * 4
    assert all("rank 1 has another mixture" in sentence for sentence in told[4:7])
    assert told[7] == "this rank's experts lie over the ranks [0,1]; rank 1 says [0,1,2]"


def test_experts_of_another_rank_are_refused_without_a_group() -> None:
    """A part of the experts cannot answer for all."""
    bank = Bank(_experts(2, 3, 2, torch.float32), 2, count=3)
    with pytest.raises(ValueError, match="2 of 3 experts"):
        LocalDispatch()(
            torch.randn(1, 3), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), bank
        )
    with pytest.raises(ValueError, match="not within"):
        Bank(_experts(2, 3, 2, torch.float32), 2, first=2, count=3)
    with pytest.raises(ValueError, match="top must lie"):
        Mixture(Bank(_experts(2, 3, 2, torch.float32), 2), LocalDispatch(), 3)


@pytest.mark.parametrize(("count", "world"), [(3, 4), (7, 3), (4, 2), (1, 1)])
def test_every_expert_has_one_owner(count: int, world: int) -> None:
    """Also where ranks outnumber experts."""
    held = [expert for rank in range(world) for expert in owned(count, world, rank)]
    assert held == list(range(count))
