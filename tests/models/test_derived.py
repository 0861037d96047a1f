"""Sums that trees ask: exact in any order, and a signal's part can be taken out again."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.derived import GROUPS, SUMS, X, Y, asked
from models.features import ABSENT, D, E, F, V
from models.signals import COUNT, INDEX


def windows(seed: int, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of signals [rows, S, D], a third of them never measured, and all of them flat."""
    rng = np.random.default_rng(seed)
    signals = torch.from_numpy(rng.normal(0, 1.5, (rows, COUNT, D)).astype(np.float32))
    signals[:, :, 1] = 0.0
    signals[:, :, 2] = torch.from_numpy(rng.random((rows, COUNT)).astype(np.float32))
    signals[torch.from_numpy(rng.random((rows, COUNT)) < 0.3)] = torch.tensor(ABSENT)
    return signals, flat(signals)


def flat(signals: torch.Tensor) -> torch.Tensor:
    """With nothing in the minutes and of the case."""
    return torch.cat([signals.reshape(len(signals), -1), torch.zeros(len(signals), V * E + F)], 1)


def test_flat_features_come_first_as_they_are() -> None:
    """And a sum of each group and term follows."""
    _, x = windows(1)
    made = asked(x)
    assert made.shape == (4, Y) and torch.equal(made[:, :X], x)
    assert len(GROUPS) * len(SUMS) == Y - X


def test_a_window_without_signals_has_sums_of_nothing() -> None:
    """Whatever is summed, a signal that was never measured adds 0."""
    nothing = torch.tensor(ABSENT).expand(1, COUNT, D)
    assert not asked(flat(nothing))[:, X:].any()


@given(st.integers(0, 1_000), st.integers(0, COUNT - 1))
def test_without_a_signal_a_sum_lacks_exactly_its_part(seed: int, signal: int) -> None:
    """The same bits as if the signal had never been measured."""
    signals, x = windows(seed)
    alone = torch.tensor(ABSENT).repeat(4, COUNT, 1)
    alone[:, signal] = signals[:, signal]
    signals[:, signal] = torch.tensor(ABSENT)
    part = asked(flat(alone))[:, X:]
    assert (part >= 0).all()
    assert torch.equal(asked(x)[:, X:] - part, asked(flat(signals))[:, X:])


def test_what_a_sum_says() -> None:
    """Of the laboratory's values two are there, one of them within the hour."""
    signals = torch.tensor(ABSENT).repeat(1, COUNT, 1)
    for name, hours, size in (("lactate", 0.2, -2.5), ("wbc", 5.0, 1.0)):
        signals[0, INDEX[name], :3] = torch.tensor([size, 0.0, hours / (hours + 6.0)])
    sums = dict(zip(SUMS, asked(flat(signals))[0, X : X + len(SUMS)].tolist(), strict=True))
    assert next(iter(GROUPS)) == "laboratory"
    assert sums["below", "missing", 0.5] == 2
    assert sums["below", "age", 0.5 / 6.5] == 1
    assert sums["below", "age", 6.5 / 12.5] == 2
    assert sums["beyond", "newest", 2.0] == 1
    assert sums["size", "newest", 0.0] == 3.5
