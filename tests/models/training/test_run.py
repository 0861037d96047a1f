"""From archives to weights and card."""

import json

import pytest

from models import checkpoint
from models.network import RISKS
from models.training import cross, run
from models.training.forest import Recipe


def test_one_set_alone_trains_a_model_whose_card_leaves_out_what_nobody_knows(
    recorded, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """2012 knows neither sepsis nor charted diagnoses: no figure of either, and no NaN."""
    small = {risk: (Recipe(trees=4, leaves=4, least=5, features=0.6),) for risk in RISKS}
    monkeypatch.setattr(cross, "SHIPPED", small)
    recorded.physionet2012(tmp_path / "data" / "physionet2012", stays=24)
    out = tmp_path / "out"
    run.train(tmp_path / "data", out, sets=["physionet2012"], epochs=1, folds=2)

    _, version = checkpoint.load(out / "model.safetensors")
    card = json.loads((out / "card.json").read_text(), parse_constant=lambda _: pytest.fail("NaN"))
    assert card["version"] == version
    assert "experts" not in card["measured"]
    assert "sepsis_utility" not in card["measured"]
    assert card["measured"]["mortality"]["events"] > 0


def test_too_few_patients_for_the_folds_are_told(recorded, tmp_path):
    """In a sentence, before anything is grown."""
    recorded.physionet2012(tmp_path / "data" / "physionet2012", stays=3)
    with pytest.raises(ValueError, match=r"3 stays are too few: none falls into fold \d of 5"):
        run.train(tmp_path / "data", tmp_path / "out", sets=["physionet2012"])
