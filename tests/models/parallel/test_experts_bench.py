"""The model of what spread experts cost says what is sent, and when spreading pays."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.parallel.experts_bench import Cost, advice, measure
from models.parallel.ranks import start

COST = Cost(world=3, rows=64, width=128, outputs=128, top=2, experts=6, numbers=4096)


def _run(rank: int, store: str, out: str) -> None:
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    assert dist.group.WORLD is not None
    rows = measure(dist.group.WORLD, sizes=(4096,), rows=64)
    torch.save(
        [(r.case, r.reference_error, r.bytes, r.ratio, r.note) for r in rows], f"{out}{rank}"
    )
    dist.barrier()
    dist.destroy_process_group()


def test_what_is_sent_is_what_the_model_of_the_cost_says(tmp_path: Path) -> None:
    """Within a tenth, since experts are drawn; the error is of rounding alone; every rank says the
    same.
    """
    start(_run, 3, str(tmp_path / "store"), str(tmp_path / "out"))
    said = [torch.load(tmp_path / f"out{rank}") for rank in range(3)]

    assert said[0] == said[1] == said[2]
    train, serve = said[0]
    assert train[2] == pytest.approx(3 * COST.spread_bytes, rel=0.1)
    assert serve[2] < train[2]
    assert train[1] < 1e-6 and serve[1] < 1e-6
    assert "replicate" in train[4]


def test_spreading_pays_from_where_experts_outgrow_their_rows() -> None:
    """At the turning point both send as much; more rows move it up, memory falls by the ranks."""
    turn = COST.turns_at
    grown = replace(COST, numbers=turn)
    assert grown.spread_bytes == pytest.approx(grown.replicated_bytes, rel=1e-3)
    assert advice(replace(COST, numbers=turn // 2)).startswith("replicate")
    assert advice(replace(COST, numbers=turn * 2)).startswith("spread")
    assert replace(COST, rows=640).turns_at > 9 * turn
    assert COST.replicated_memory_bytes == 3 * COST.spread_memory_bytes


@pytest.mark.parametrize("top", [1, 2, 6])
def test_a_row_leaves_once_for_each_other_rank_that_answers_it(top: int) -> None:
    """All experts: once to every other rank. One: as often as another rank owns it."""
    parcels = replace(COST, top=top).parcels / COST.rows
    assert parcels == pytest.approx({1: 2 / 3, 2: 2 * (1 - 4 / 6 * 3 / 5), 6: 2.0}[top])
