"""The encoder learns from slabs what it learns from whole volumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from models.parallel.encoder import Encoder, Split, SplitGroupNorm
from models.parallel.phantoms import phantoms
from models.parallel.ranks import start

WORLD = 4
STEPS = 5
SIZE = (11, 8, 10)


def _train(split: Split) -> tuple[list[float], torch.Tensor]:
    """Losses of a few steps, and the weights after them."""
    volumes, labels = phantoms(4, SIZE, 3, torch.float64)
    slab = split.slab(volumes)
    torch.manual_seed(1)
    encoder = Encoder(widths=(4, 8), groups=2, split=split).double()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.binary_cross_entropy_with_logits(encoder(slab)[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        encoder.sum_gradients()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses, torch.nn.utils.parameters_to_vector(encoder.parameters()).detach()


def _run(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    splits = {"line": Split.line(2), "mesh": Split.mesh((3, 4), (2, 2))}
    torch.save({name: _train(split) for name, split in splits.items()}, f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


def test_split_training_has_the_loss_curve_and_weights_of_unsplit_training(tmp_path: Path) -> None:
    """Slabs along one dimension and tiles along two, of uneven sizes, in real processes."""
    start(_run, WORLD, str(tmp_path / "store"), str(tmp_path / "out"))
    losses, weights = _train(Split())

    assert losses[-1] < losses[0]
    for rank in range(WORLD):
        for ours, held in torch.load(tmp_path / f"out.{rank}").values():
            assert ours == pytest.approx(losses, abs=1e-9)
            assert torch.allclose(held, weights, rtol=0, atol=1e-9)


def test_the_norm_of_an_unsplit_volume_is_torch_s() -> None:
    """So that a network can be taken out of its split and into an ordinary one."""
    x = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64)
    ours = SplitGroupNorm(3, 6, Split()).double()

    assert torch.allclose(ours(x), nn.functional.group_norm(x, 3, eps=1e-5), atol=1e-12)


def test_phantoms_are_the_same_by_seed_and_half_have_lesions() -> None:
    """Lesions make a volume brighter than its body is."""
    volumes, labels = phantoms(6, (16, 16, 16), 5)
    again, _ = phantoms(6, (16, 16, 16), 5)

    assert torch.equal(volumes, again)
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    peak = (volumes > 1.6).sum((1, 2, 3, 4))
    assert peak[labels == 1].min() > peak[labels == 0].max()
