"""A checkpoint: what was written is what loads, or nothing does."""

from __future__ import annotations

import pytest
import torch

from models.checkpoint import BadCheckpoint, Calibrated, card, load, save, version


def test_what_was_saved_is_loaded(tmp_path) -> None:
    """Weights, calibration, version and card."""
    torch.manual_seed(0)
    model = Calibrated()
    model.calibration.threshold[0] = 0.03
    path = tmp_path / "model.safetensors"
    said = save(model, path, {"name": "x"})
    loaded, named = load(path)
    assert named == said == version(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert card(path) == {"name": "x"}


@pytest.mark.parametrize("where", [8, 3000, -5])
def test_a_changed_file_does_not_load(tmp_path, where: int) -> None:
    """Neither a changed header nor a changed weight."""
    path = tmp_path / "model.safetensors"
    save(Calibrated(), path)
    content = bytearray(path.read_bytes())
    content[where] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint):
        load(path)


def test_another_card_does_not_load(tmp_path) -> None:
    """The card beside the weights is theirs."""
    path = tmp_path / "model.safetensors"
    save(Calibrated(), path, {"name": "x"})
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match="card"):
        load(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    """In one line."""
    with pytest.raises(BadCheckpoint, match=r"nothing\.safetensors"):
        load(tmp_path / "nothing.safetensors")
