"""How unlike the training data a window is."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.features import ABSENT, D
from models.novelty import Novelty
from models.signals import COUNT

HR, SBP, DBP, MEASURED = 0, 3, 5, 30


def rows(n, seed=0):
    """Features of signals of which nine in ten of the first are measured, two pressures that go
    together always.
    """
    rng = torch.Generator().manual_seed(seed)
    signals = torch.tensor(ABSENT).repeat(n, COUNT, 1)
    value = torch.randn(n, MEASURED, generator=rng)
    value[:, DBP] = value[:, SBP] + 0.1 * value[:, DBP]
    signals[:, :MEASURED, 1] = 0.0
    signals[:, :MEASURED, 0] = signals[:, :MEASURED, 4] = value
    lacking = torch.rand(n, COUNT, generator=rng) < 0.1
    lacking[:, [SBP, DBP]] = False
    return torch.where(lacking.unsqueeze(2), torch.tensor(ABSENT), signals)


def fitted():
    score = Novelty()
    score.fit(rows(4000))
    return lambda signals: score(signals)[0]


def test_half_of_the_training_data_is_not_new_at_all_by_either_score():
    """Medians are where novelty begins; the larger of two begins for at most half of the rows."""
    said = fitted()(rows(2000, 1))

    assert (said == 0).float().mean() >= 0.2
    assert (said > 0.5).float().mean() < 0.05


def test_what_is_out_of_range_is_new():
    """A heart rate of six standard deviations."""
    odd = rows(50, 2)
    odd[:, HR] = torch.tensor(ABSENT)
    odd[:, HR, 1] = 0.0
    odd[:, HR, 0] = odd[:, HR, 4] = 6.0

    assert fitted()(odd).min() > 0.5


def test_values_that_do_not_go_together_are_new_each_of_them_usual():
    """A high systolic beside a low diastolic pressure: no value leaves the common range."""
    usual, odd = rows(200, 3), rows(200, 3)
    odd[:, SBP, 0] = odd[:, SBP, 4] = 1.5
    odd[:, DBP, 0] = odd[:, DBP, 4] = -1.5
    score = fitted()

    assert score(odd).median() > 0.4
    assert score(usual).median() < 0.1


def test_signals_that_nobody_measured_in_training_are_new():
    """Another hospital's habits: usual values of other signals."""
    odd = rows(50, 4)
    odd[:, MEASURED:, 1] = 0.0

    assert fitted()(odd).min() == 1.0


def test_only_values_route_to_the_rare_disease_expert():
    """Another hospital is no rare disease: its habits leave the second number as it was."""
    score = Novelty()
    score.fit(rows(4000))
    usual, odd = rows(50, 4), rows(50, 4)
    odd[:, MEASURED:, 1] = 0.0

    assert (score(odd)[1] <= score(usual)[1]).all()
    assert (score(odd)[0] > score(odd)[1]).all()


def test_one_signal_that_lacks_is_not_new():
    """A probe that fell off makes no other kind of patient."""
    lacking = rows(400, 5)
    lacking[:, HR] = torch.tensor(ABSENT)

    assert fitted()(lacking).median() < 0.2


def test_before_it_is_fitted_only_values_count():
    """No covariance, no pattern."""
    signals = rows(20, 6)
    signals[:, SBP, 0] = 4.0
    signals[:, DBP, 0] = -4.0

    assert Novelty().pattern(signals).eq(0).all()


@given(st.integers(0, 2**31))
def test_novelty_lies_between_0_and_1_whatever_the_window(seed):
    """Any features within their clip."""
    rng = torch.Generator().manual_seed(seed)
    signals = torch.rand(8, COUNT, D, generator=rng) * 12 - 6
    signals[:, :, 1] = (torch.rand(8, COUNT, generator=rng) < 0.5).float()
    said = SCORE(signals)

    assert said.isfinite().all()
    assert ((said >= 0) & (said <= 1)).all()


SCORE = fitted()
