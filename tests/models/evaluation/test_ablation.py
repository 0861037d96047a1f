"""Taking the mixture apart: shares, and what it costs where the right expert is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.evaluation import ablation, routing
from models.evaluation.ablation import Apart, changed
from models.evaluation.cohort import Cohort
from models.evaluation.told import Told
from models.features import D, E, F, V
from models.moe import ALWAYS, EXPERTS
from models.network import RISKS, Network
from models.signals import COUNT

STAYS, HOURS = 300, 10


def cohort_of(seed: int = 0) -> Cohort:
    """Stays of eICU and 2012 in turn; specialties by chance, hypotension in a third of rows."""
    rng = np.random.default_rng(seed)
    n = STAYS * HOURS
    labels = np.full((n, len(RISKS)), -1, np.int8)
    labels[:, RISKS.index("hypotension")] = rng.random(n) < 0.33
    text = np.full(STAYS, "")
    units = np.array(routing.UNITS)[np.arange(STAYS) // 2 % 4]
    return Cohort(
        record=np.arange(STAYS).astype(np.str_),
        source=np.where(np.arange(STAYS) % 2, 1, 2).astype(np.int8),
        part=np.zeros(STAYS, np.int8),
        hospital=text,
        unit=units,
        sex=text,
        age=np.full(STAYS, 60, np.float32),
        apache=np.full(STAYS, np.nan, np.float32),
        expert=rng.integers(0, 4, STAYS).astype(np.int8),
        stay=np.repeat(np.arange(STAYS), HOURS),
        hour=np.tile(np.arange(HOURS), STAYS),
        labels=labels,
        score=np.zeros((n, 4), np.float32),
        newest=np.full((n, 2), 80, np.float32),
        fresh=np.zeros(n, np.uint16),
    )


def told_of(share: np.ndarray) -> Told:
    nothing = np.zeros((0, len(RISKS)))
    n = len(share)
    return Told(
        np.arange(n),
        np.full((n, len(RISKS)), 0.5),
        nothing,
        nothing,
        np.zeros((n, len(RISKS)), np.bool_),
        np.zeros(n),
        share,
        np.zeros((n, 5), np.int16),
        np.zeros((n, 5)),
    )


def test_shares_stay_shares() -> None:
    """However the mixture is taken apart; the wrong specialist is the one with the least."""
    share = np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.05, 0.6, 0.1]])
    ways = changed(share)
    assert all(x.sum(1) == pytest.approx(1.0) for x in ways.values())
    assert ways["without_oncology"][0] == pytest.approx(np.array([0.4, 0, 0.2, 0.1]) / 0.7)
    assert ways["wrong_specialist"].tolist() == [
        [ALWAYS, 0, 0, 1 - ALWAYS],
        [ALWAYS, 1 - ALWAYS, 0, 0],
    ]
    assert ways["leading_specialist"].argmax(1).tolist() == [1, 2]
    assert ways["general_alone"].tolist() == [[1, 0, 0, 0]] * 2


def test_parts_add_up_to_what_the_network_says() -> None:
    """Its own shares of its experts' logits are its logits."""
    torch.manual_seed(0)
    network = Network().eval()
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(9, *s)).astype(np.float32) for s in ((COUNT, D), (V, E), (F,))]
    said = Apart.of(network, *inputs).said()
    with torch.inference_mode():
        whole = network(*(torch.from_numpy(x) for x in inputs)).logits
    np.testing.assert_allclose(said[""], whole.numpy(), atol=1e-5)
    assert set(said) == {"", *ablation.WAYS}


def test_the_wrong_expert_hurts_where_the_right_one_knows() -> None:
    """What ranks less well is behind, with an interval; the same is behind by nothing."""
    cohort = cohort_of()
    label = cohort.label("hypotension")
    rng = np.random.default_rng(1)
    good = label + rng.normal(0, 0.7, len(label))
    said = {
        "": {"hypotension": good},
        "uniform": {"hypotension": good},
        "wrong_specialist": {"hypotension": rng.normal(size=len(label))},
    }
    found = ablation.compared(cohort, said)["hypotension"]["blended"]["ahead_of"]
    assert found["wrong_specialist"]["auroc"]["low"] > 0.1
    assert found["uniform"]["auroc"]["value"] == 0.0
    assert "dense" not in found


def test_routing_is_judged_by_charts_units_and_rest() -> None:
    """A gate that follows the charts has AUROC 1 there; one that never moves keeps its leader."""
    cohort = cohort_of()
    expert = cohort.expert[cohort.stay]
    unit = np.array([routing.UNITS.index(u) for u in cohort.unit])[cohort.stay]
    share = np.stack(
        [
            np.full(len(unit), 0.3),
            0.1 + 0.1 * (expert & 1),
            0.1 + 0.05 * (expert & 2),
            0.05 + 0.02 * unit,
        ],
        1,
    )
    share /= share.sum(1, keepdims=True)
    told = told_of(share)
    charted = routing.charted(cohort, told)
    assert charted["oncology"]["at_24_h"]["value"] > 0.95
    assert charted["cardiology"]["at_the_end"]["value"] > 0.95
    at = np.arange(HOURS - 1, len(share), HOURS)
    apart = routing.units(cohort, told, at)["told_apart_auroc"]
    assert len(apart) == 6 and apart["medical_and_cardiac_surgery"]["value"] > 0.9
    load = routing.load(cohort, told, at)
    assert load["least"] == min(load["all"].values()) and set(load["all"]) == set(EXPERTS)
    assert routing.hours(cohort, told)["the_same"]["value"] == 1.0
    moving = share.copy()
    moving[::2, 1] = 2.0
    found = routing.hours(cohort, replace(told, share=moving))
    assert found["the_same"]["value"] == 0.0 and found["changes_a_day"] == 24.0
