"""The gate's lesson, on rows whose specialties are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.features import ABSENT, CASE_FEATURES, UNIT_MISSING, D, E, F, V
from models.moe import EXPERTS
from models.network import RISKS, Network
from models.signals import COUNT
from models.training import gate
from models.training.cache import SETS, Table

AT = {name: i for i, name in enumerate(CASE_FEATURES)}
GENERAL, ONCOLOGY, CARDIOLOGY, RARE = range(len(EXPERTS))


def rows(stays: int = 300, each: int = 4) -> Table:
    """Patients of all sets; in eICU evidence tells the specialty, in 2012 the unit does."""
    rng = np.random.default_rng(3)
    n = stays * each
    stay = np.repeat(np.arange(stays), each)
    source = stay % len(SETS)
    cancer, heart = rng.random(stays)[stay] < 0.2, rng.random(stays)[stay] < 0.5
    case = np.zeros((n, F), np.float16)
    case[:, AT["known"]] = 1
    eicu, boston = source == SETS.index("eicu-demo"), source == SETS.index("physionet2012")
    case[eicu, AT["problems"]] = 1
    case[eicu, AT["oncology"]] = np.where(cancer, 0.6, -0.1)[eicu]
    case[eicu, AT["cardiac"]] = np.where(heart, 0.6, -0.3)[eicu]
    case[~boston, UNIT_MISSING] = 1
    case[boston & heart, AT["coronary"]] = 1
    case[boston & ~heart, AT["medical"]] = 1
    expert = np.where(eicu, cancer + 2 * heart, np.where(boston, 2 * heart, -1))
    signals = np.broadcast_to(np.array(ABSENT, np.float16), (n, COUNT, D)).copy()
    signals[:, :4, 5] = rng.standard_normal((n, 4))
    columns = {
        "signals": signals,
        "minutes": np.zeros((n, V, E), np.float16),
        "case": case,
        "labels": np.full((n, len(RISKS)), -1, np.int8),
        "stay": stay,
        "source": source.astype(np.int8),
        "expert": expert.astype(np.int8),
    }
    return Table(**{k: columns.get(k, np.zeros(n, np.int64)) for k in Table.__slots__})


def share_of(network: Network, table: Table) -> Tensor:
    """Shares of all rows."""
    parts = (table.signals, table.minutes, table.case)
    with torch.inference_mode():
        return network(*(torch.from_numpy(x.astype(np.float32)) for x in parts)).share


@pytest.fixture(scope="module")
def taught() -> tuple[Network, Table]:
    """A network after its gate's lesson, and the rows."""
    table = rows()
    torch.manual_seed(1)
    network = Network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "steps_of", lambda _: 300)
        gate.teach(network, table, 1)
    return network.eval(), table


def test_patients_are_routed_to_their_specialists(taught: tuple[Network, Table]) -> None:
    """By evidence where a case has problem codes, by the unit where that is all."""
    network, table = taught
    share = share_of(network, table)
    eicu = table.source == SETS.index("eicu-demo")
    cancer, heart = (table.expert & 1) > 0, (table.expert & 2) > 0
    for expert, label in ((ONCOLOGY, cancer), (CARDIOLOGY, heart & ~cancer)):
        other = eicu & ~cancer & ~heart
        assert share[eicu & label, expert].mean() > 2 * share[other, expert].mean()
    boston = table.source == SETS.index("physionet2012")
    known, rest = share[boston & heart, CARDIOLOGY], share[boston & ~heart, CARDIOLOGY]
    assert known.quantile(0.05) > rest.quantile(0.95)


def test_every_expert_has_its_part_of_the_load(taught: tuple[Network, Table]) -> None:
    """At least a twentieth over a mixed ward, the rare-disease route included."""
    network, table = taught
    assert (share_of(network, table).mean(0) >= 0.05).all()


def test_an_orphanet_code_opens_the_rare_disease_route(taught: tuple[Network, Table]) -> None:
    """Though no set has one."""
    network, table = taught
    case = table.case.copy()
    case[:, AT["problems"]] = case[:, AT["rare"]] = 1
    before, after = share_of(network, table), share_of(network, replace(table, case=case))
    assert (after[:, RARE] > 2 * before[:, RARE]).all()


def test_what_was_taught_is_kept(taught: tuple[Network, Table]) -> None:
    """Later training gets no gradient for the gate."""
    network, table = taught
    parts = (table.signals[:8], table.minutes[:8], table.case[:8])
    said = network(*(torch.from_numpy(x.astype(np.float32)) for x in parts))
    said.logits.sum().backward()
    assert all(x.grad is None for x in network.gate.parameters())


def test_a_diagnosis_says_more_than_a_unit_and_a_unit_more_than_nothing() -> None:
    """Of tumours units say nothing; what is not known is the prior, at little weight."""
    expert = torch.tensor([3, 0, 2, 0, -1])
    told = torch.tensor([True, True, False, False, False])
    want, weight = gate.wanted(expert, told)
    assert want[:2].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    cancer, heart = want.T.tolist()
    assert cancer[2:] == [cancer[4]] * 3 and 0.0 < cancer[4] < 0.2
    assert heart[3] < heart[4] < heart[2] < 1.0
    assert (weight[:2] >= 1.0).all() and (weight[2:4, 1] == 1.0).all()
    assert (weight[2:, 0] < 0.5).all() and weight[4, 1] < 0.5


def test_the_same_seed_teaches_the_same_gate() -> None:
    """Rows, what is hidden of them and steps come from the seed alone."""
    table = rows(60)
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        network = Network()
        gate.teach(network, table, 9)
        states.append(network.gate.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
