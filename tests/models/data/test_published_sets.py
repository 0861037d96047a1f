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
    """As many stays as were published, none rejected, heart rates and times as a ward has them. Of
    2012 the published deaths, 554 + 568; of 2019 septic labels that are 0 until they are 1.
    """
    opened = open_set(name, [_folder(name)], labels=True)
    stays, deaths, septic, heart, times = 0, 0, 0, [], True
    for stay in opened:
        stays += 1
        times = times and bool((np.diff(stay.times_ms) > 0).all())
        kept = stay.bounded()
        heart.append(kept.value[kept.signal == INDEX["hr"]])
        labels = stay.labels
        if labels is not None:
            deaths += labels.mortality or 0
            septic += labels.sepsis is not None and bool((np.diff(labels.sepsis) >= 0).all())

    rates = np.concatenate(heart)
    assert not opened.bad
    assert stays == STAYS[name]
    assert times
    assert name == "physionet2009" or 70 < np.median(rates) < 100
    assert name != "physionet2012" or deaths == 554 + 568
    assert septic == (stays if name == "physionet2019" else 0)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_outcomes_are_read_only_where_they_are_asked_for(name: str) -> None:
    """A stay that is streamed carries none."""
    assert next(iter(open_set(name, [_folder(name)]))).labels is None
