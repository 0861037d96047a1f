"""The published archives, where `VITALSTREAM_DATA` names their folder: read whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from models.data import open_set
from models.signals import INDEX

FOLDERS = {
    "physionet2012": "physionet2012",
    "physionet2019": "physionet2019",
    "eicu-demo": "eicu-crd-demo",
    "bidmc": "bidmc",
    "physionet2009": "physionet2009",
}
STAYS = {
    "physionet2012": 8_000,
    "physionet2019": 32_368,
    "eicu-demo": 1_828,
    "bidmc": 53,
    "physionet2009": 60,
}


def _folder(name: str) -> Path:
    root = os.environ.get("VITALSTREAM_DATA")
    if not root:
        pytest.skip("VITALSTREAM_DATA names no folder of recorded sets (README, Recorded data)")
    return Path(root) / FOLDERS[name]


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_every_published_record_is_read_and_plausible(name: str) -> None:
    """As many stays as were published, none rejected, heart rates and times as a ward has them."""
    opened = open_set(name, [_folder(name)])
    stays, heart, times = 0, [], True
    for stay in opened:
        stays += 1
        times = times and bool((np.diff(stay.times_ms) > 0).all())
        kept = stay.bounded()
        heart.append(kept.value[kept.signal == INDEX["hr"]])
        assert stay.labels is None

    rates = np.concatenate(heart)
    assert not opened.bad
    assert stays == STAYS[name]
    assert times
    assert name == "physionet2009" or 70 < np.median(rates) < 100


def test_the_outcomes_of_2012_and_2019_are_those_published() -> None:
    """554 + 568 deaths; a septic label is 0 until it is 1 and stays 1."""
    deaths = sum(
        stay.labels.mortality or 0
        for stay in open_set("physionet2012", [_folder("physionet2012")], labels=True)
        if stay.labels
    )
    rises = [
        bool((np.diff(stay.labels.sepsis) >= 0).all())
        for stay in open_set("physionet2019", [_folder("physionet2019")], labels=True)
        if stay.labels is not None and stay.labels.sepsis is not None
    ]

    assert deaths == 554 + 568
    assert all(rises) and len(rises) == STAYS["physionet2019"]
