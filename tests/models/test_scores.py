"""Bedside scores: every boundary of the published tables and its neighbours."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import signals
from models.scores import SCORE_INPUTS, SCORES, VARIANTS, score

# (score, input) -> (upper end of the band, points), the last band open. Transcribed from the
# published charts, not from the product's tables.
NEWS2 = {
    "resp": (1, [(8, 3), (11, 1), (20, 0), (24, 2), (None, 3)]),
    "spo2": (1, [(91, 3), (93, 2), (95, 1), (None, 0)]),
    "sbp": (1, [(90, 3), (100, 2), (110, 1), (219, 0), (None, 3)]),
    "hr": (1, [(40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (None, 3)]),
    "temp": (0.1, [(35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (None, 2)]),
}
MEWS = {
    "resp": (1, [(8, 2), (14, 0), (20, 1), (29, 2), (None, 3)]),
    "sbp": (1, [(70, 3), (80, 2), (100, 1), (199, 0), (None, 2)]),
    "hr": (1, [(40, 2), (50, 1), (100, 0), (110, 1), (129, 2), (None, 3)]),
    "temp": (0.1, [(34.9, 2), (38.4, 0), (None, 2)]),
}
SCALE_2 = {
    0: [(83, 3), (84, 2), (85, 2), (86, 1), (87, 1), (88, 0), (92, 0), (93, 0), (97, 0), (100, 0)],
    1: [(83, 3), (84, 2), (86, 1), (88, 0), (92, 0), (93, 1), (94, 1), (95, 2), (96, 2), (97, 3)],
}


def boundaries():
    for name, table in (("news2", NEWS2), ("mews", MEWS)):
        for signal, (step, bands) in table.items():
            for (upper, points), (_, after) in itertools.pairwise(bands):
                yield name, signal, upper - step, points
                yield name, signal, upper, points
                yield name, signal, upper + step, after


def values(**given_values):
    row = np.full((1, signals.COUNT), np.nan, np.float32)
    for name, value in given_values.items():
        row[0, signals.INDEX[name]] = value
    return row


def one(name, scale=1, **given_values):
    value, missing = score(values(**given_values), np.array([scale]))
    at = SCORES.index(name)
    bits = int(missing[0, at])
    return value[0, at], {n for i, n in enumerate(SCORE_INPUTS) if bits >> i & 1}


def banded(name, signal, value):
    step, bands = (NEWS2 if name == "news2" else MEWS)[signal]
    steps = round(value / step)
    return next(p for upper, p in bands if upper is None or steps <= round(upper / step))


@pytest.mark.parametrize(("name", "signal", "value", "_points"), list(boundaries()))
def test_each_boundary_and_its_neighbours_score_as_printed(name, signal, value, _points):
    """A value at a band's end scores that band, one step further the next."""
    assert one(name, **{signal: value})[0] == banded(name, signal, value)


@pytest.mark.parametrize(
    ("oxygen", "spo2", "points"), [(o, s, p) for o, rows in SCALE_2.items() for s, p in rows]
)
def test_the_second_scale_follows_the_chart_on_air_and_on_oxygen(oxygen, spo2, points):
    """Scale 2 scores high saturations only on oxygen."""
    assert one("news2", 2, spo2=spo2, on_oxygen=oxygen)[0] == points + 2 * oxygen


@pytest.mark.parametrize(
    ("acvpu", "news2", "mews"), [(0, 0, 0), (1, 3, 1), (2, 3, 1), (3, 3, 2), (4, 3, 3)]
)
def test_consciousness_scores_by_its_level(acvpu, news2, mews):
    """Anything but alert is 3 in NEWS2; MEWS counts down the levels."""
    assert (one("news2", acvpu=acvpu)[0], one("mews", acvpu=acvpu)[0]) == (news2, mews)


@pytest.mark.parametrize(
    ("gcs", "news2", "mews"), [(15, 0, 0), (14, 3, 1), (9, 3, 1), (8, 3, 2), (4, 3, 2), (3, 3, 3)]
)
def test_the_coma_scale_stands_in_for_consciousness(gcs, news2, mews):
    """GCS 15 is alert, less is not."""
    value, missing = one("news2", gcs=gcs)

    assert (value, one("mews", gcs=gcs)[0]) == (news2, mews)
    assert "acvpu" not in missing


def test_a_charted_level_wins_over_the_coma_scale():
    """The assessed level is used where both are there."""
    assert one("news2", gcs=9, acvpu=0)[0] == 0


@pytest.mark.parametrize(("fio2", "points"), [(0.21, 0), (0.22, 2), (1.0, 2)])
def test_oxygen_is_told_from_the_inspired_fraction(fio2, points):
    """More than room air is oxygen."""
    value, missing = one("news2", fio2=fio2)

    assert value == points
    assert "on_oxygen" not in missing


@pytest.mark.parametrize(
    ("known", "points"),
    [
        ({"resp": 21}, 0),
        ({"resp": 22}, 1),
        ({"sbp": 101}, 0),
        ({"sbp": 100}, 1),
        ({"gcs": 15}, 0),
        ({"gcs": 14}, 1),
        ({"acvpu": 0}, 0),
        ({"acvpu": 1}, 1),
        ({"resp": 22, "sbp": 100, "gcs": 14}, 3),
    ],
)
def test_qsofa_counts_its_criteria(known, points):
    """Breathing of 22, pressure of 100, mentation below 15."""
    assert one("qsofa", **known)[0] == points


@pytest.mark.parametrize(
    ("known", "points"),
    [
        ({"temp": 38.0}, 0),
        ({"temp": 38.1}, 1),
        ({"temp": 36.0}, 0),
        ({"temp": 35.9}, 1),
        ({"hr": 90}, 0),
        ({"hr": 91}, 1),
        ({"resp": 20}, 0),
        ({"resp": 21}, 1),
        ({"paco2": 32}, 0),
        ({"paco2": 31.9}, 1),
        ({"resp": 21, "paco2": 31}, 1),
        ({"wbc": 12}, 0),
        ({"wbc": 12.1}, 1),
        ({"wbc": 4}, 0),
        ({"wbc": 3.9}, 1),
        ({"temp": 39, "hr": 120, "resp": 30, "wbc": 20}, 4),
    ],
)
def test_sirs_counts_its_criteria(known, points):
    """Each limit itself does not count, what lies past it does."""
    assert one("sirs", **known)[0] == points


def test_the_shock_index_needs_both_of_its_inputs():
    """Heart rate over systolic pressure; of one alone nothing is said."""
    assert one("shock_index", hr=120, sbp=80)[0] == 1.5
    value, missing = one("shock_index", hr=120)
    assert np.isnan(value)
    assert missing == {"sbp"}


def test_nothing_known_is_no_score_and_names_everything():
    """An empty window has no value in any score."""
    value, _ = score(values(), np.array([1]))

    assert np.isnan(value).all()
    assert one("news2")[1] == {"resp", "spo2", "on_oxygen", "sbp", "hr", "acvpu", "temp"}
    assert one("qsofa")[1] == {"resp", "sbp", "gcs"}
    assert one("sirs")[1] == {"temp", "hr", "resp", "paco2", "wbc"}


def test_a_criterion_already_met_misses_nothing():
    """Fast breathing settles the breathing criterion, whatever the blood gas would say."""
    assert "paco2" not in one("sirs", resp=30)[1]
    assert "paco2" in one("sirs", resp=18)[1]


def test_values_between_the_charts_steps_are_rounded_half_up():
    """The chart speaks of whole numbers and tenths."""
    assert one("news2", resp=20.4)[0] == 0
    assert one("news2", resp=20.5)[0] == 2
    assert one("news2", temp=38.04)[0] == 0
    assert one("news2", temp=38.06)[0] == 1


def test_each_score_names_its_variant():
    """Local variants are many, so the one in use is said."""
    assert set(VARIANTS) == set(SCORES)
    assert all(VARIANTS.values())


def test_a_full_chart_of_a_very_sick_patient_reaches_the_maximum():
    """NEWS2's range ends at 20."""
    worst = {"resp": 30, "spo2": 85, "on_oxygen": 1, "sbp": 80, "hr": 140, "acvpu": 3, "temp": 34.0}

    assert one("news2", **worst)[0] == 20
    assert one("news2", **worst)[1] == set()


@given(st.data())
def test_a_rows_scores_do_not_depend_on_its_neighbours(data):
    """A batch says the same of a row as the row alone does."""
    rows = data.draw(st.integers(1, 5))
    cells = st.one_of(st.just(np.nan), st.floats(0, 1, width=32))
    unit = np.array(
        data.draw(st.lists(cells, min_size=rows * signals.COUNT, max_size=rows * signals.COUNT))
    ).reshape(rows, signals.COUNT)
    batch = (signals.LOW + unit * (signals.HIGH - signals.LOW)).astype(np.float32)
    scale = np.array(data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=rows, max_size=rows)))
    together = score(batch, scale)

    for i in range(rows):
        alone = score(batch[i : i + 1], scale[i : i + 1])
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        np.testing.assert_array_equal(alone[1][0], together[1][i])


@given(st.sampled_from(SCORE_INPUTS), st.floats(0, 1))
def test_knowing_more_never_lowers_a_score(signal, share):
    """A partial score is a lower bound."""
    at = signals.INDEX[signal]
    some = values(hr=95, temp=38.5, resp=18)
    more = some.copy()
    if np.isnan(more[0, at]):
        more[0, at] = np.round(signals.LOW[at] + share * (signals.HIGH[at] - signals.LOW[at]))

    before, after = score(some, np.array([1]))[0], score(more, np.array([1]))[0]
    keep = ~np.isnan(before)
    assert (after[keep] >= before[keep]).all()
