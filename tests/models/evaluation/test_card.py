"""The card: completed by figures, refused where its schema does not allow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from app.roles.evaluate import shipped_policy
from models import checkpoint
from models.evaluation import card, run
from models.training.evaluate import card_of


def facts() -> dict[str, Any]:
    torch.manual_seed(1)
    model = checkpoint.Calibrated()
    sets = ("physionet2019", "physionet2012", "eicu-demo")
    return card_of(model, "1.0.0+x", {"rows": 0}, "vitalstream train", {"epochs": 1}, sets)


def test_the_schema_is_one() -> None:
    """Of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(card.schema())


def test_the_shipped_card_is_complete() -> None:
    """As its schema says, of the shipped weights, evaluated, and small enough to be served."""
    said = card.checked(checkpoint.card(None))
    _, version = checkpoint.load(checkpoint.SHIPPED)
    assert said["version"] == version
    assert {"alarm_policy", "bounds", "drivers", "novelty"} <= said["evaluation"].keys()
    assert checkpoint.SHIPPED.with_name(checkpoint.CARD).stat().st_size < 200_000


def test_what_training_writes_is_a_card() -> None:
    """Without figures it says that nothing was evaluated."""
    said = facts()
    assert card.checked(said) == said
    assert any(text.startswith("Not evaluated") for text in said["limits"])


@pytest.mark.parametrize(
    "change",
    [
        {"not_a_medical_device": False},
        {"limits": []},
        {"thresholds": {"sepsis": 0.5}},
        {"evaluation": {"protocol": "none"}},
        {"applied_model_card": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_card_of_another_form_is_refused(change: dict[str, Any]) -> None:
    """With the place and the reason in one line."""
    with pytest.raises(card.BadCard, match=next(iter(change))):
        card.checked(facts() | change)


def test_numbers_that_json_lacks_are_refused() -> None:
    """NaN is no figure."""
    with pytest.raises(ValueError):
        card.checked(facts() | {"measured": {"auroc": float("nan")}})


def test_evaluation_ends_in_weights_card_and_plots(recorded: Any, tmp_path: Path) -> None:
    """From archives to a card that loads with its weights; a second run replaces the figures."""
    data = tmp_path / "data"
    recorded.physionet2019(data / "physionet2019", patients=60)
    recorded.physionet2012(data / "physionet2012", stays=120)
    source = tmp_path / "in" / "model.safetensors"
    torch.manual_seed(2)
    model = checkpoint.Calibrated()
    checkpoint.save(model, source, facts())
    figures = run.evaluate(
        data,
        source,
        tmp_path / "cache",
        shipped_policy(),
        sets=("physionet2019", "physionet2012"),
        stays=6,
    )
    out = tmp_path / "out"
    said, plots = run.write(figures, source, out)
    assert json.loads((out / "card.json").read_text()) == said
    _, version = checkpoint.load(out / "model.safetensors")
    assert version == checkpoint.version(model)
    assert said["evaluation"]["tasks"] and said["evaluation"]["drivers"]["deletion"]["windows"]
    assert not any(text.startswith("Not evaluated") for text in said["limits"])
    assert {path.name for path in plots} >= {"reliability.svg", "roc.svg", "subgroups.svg"}
    assert all(path.read_text().startswith("<?xml") for path in plots)
    again, _ = run.write(figures, out / "model.safetensors", out)
    assert again == said
