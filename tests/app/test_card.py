"""The card beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

from app import card
from models.checkpoint import SHIPPED, load


def test_the_shipped_weights_have_thresholds_under_their_own_version() -> None:
    """Alerts of this release name what they are held against."""
    _, version = load(SHIPPED)
    (known,) = card.thresholds(None).items()

    assert known[0] == version
    assert set(known[1]) == {"sepsis", "mortality", "hypotension", "hypoxaemia"}


def test_a_model_of_ones_own_has_its_own_card_or_none(tmp_path: Path) -> None:
    """Never that of the shipped weights."""
    model = tmp_path / "model.safetensors"

    assert card.read(model) == card.thresholds(model) == {}
    (tmp_path / "card.json").write_text(json.dumps({"version": "2", "thresholds": {"sepsis": 0.1}}))
    assert card.thresholds(model) == {"2": {"sepsis": 0.1}}
