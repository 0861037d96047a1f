"""What was said of rows is held against the right rows: from weights, and out of fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data import open_set
from models.evaluation import cohort as cohorts
from models.evaluation import told
from models.evaluation.cohort import Cohort
from models.network import RISKS
from models.predictor import Predictor
from models.scores import SCORES
from models.training.rows import rows_of

SETS = ("physionet2019", "physionet2012", "eicu-demo")


@pytest.fixture(scope="module")
def data(recorded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with small sets of the published form."""
    folder = tmp_path_factory.mktemp("data")
    recorded.physionet2019(folder / "physionet2019", patients=24)
    recorded.physionet2012(folder / "physionet2012", stays=24)
    recorded.eicu(folder / "eicu-crd-demo", stays=18)
    return folder


@pytest.fixture(scope="module")
def cohort(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """All rows of them."""
    return cohorts.read(data, tmp_path_factory.mktemp("cache"), SETS)


def test_a_cohort_has_every_row_once(data: Path, cohort: Cohort) -> None:
    """Rows, labels and scores are those of the stays, in order; a second reading says the same."""
    at = 0
    for name in SETS:
        for stay in open_set(name, [cohorts.folder_of(data, name)], labels=True):
            if not len(stay.row):
                continue
            rows = rows_of(stay)
            n = len(rows.hour)
            assert cohort.record[cohort.stay[at]] == stay.record
            np.testing.assert_array_equal(cohort.hour[at : at + n], rows.hour)
            np.testing.assert_array_equal(cohort.labels[at : at + n], rows.labels)
            at += n
    assert at == len(cohort.stay)
    assert cohort.score.shape == (at, len(SCORES))


def test_weights_are_asked_of_their_own_rows(
    data: Path, cohort: Cohort, predictor: Predictor, tmp_path: Path
) -> None:
    """Each row has what the model says of it alone, however rows were batched."""
    part = "train"
    said = told.of_weights(cohort, data, tmp_path, predictor, SETS, part)
    assert len(said.row) == int(cohort.in_part(part).sum())
    stay = told.some_stays(data, "physionet2012", part, 1)[0]
    number = np.nonzero(cohort.record == stay.record)[0][0]
    mine = np.nonzero(cohort.stay[said.row] == number)[0]
    expected = predictor.predict(rows_of(stay).windows)
    np.testing.assert_array_equal(said.p[mine], expected.p)
    np.testing.assert_array_equal(said.driver_signal[mine], expected.driver_signal)


def _file(path: Path, cohort: Cohort, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(cohort.stay))
    p = rng.random((len(order), len(RISKS)))
    arrays = {
        "set": np.array(told.SETS)[cohort.source[cohort.stay]][order],
        "stay": cohort.record[cohort.stay][order],
        "hour": cohort.hour[order],
        "label": cohort.labels[order],
        "p": p[order],
        "positive": p[order] > 0.5,
    } | more
    np.savez(path, **arrays)
    return path


def test_out_of_fold_rows_find_their_place(cohort: Cohort, tmp_path: Path) -> None:
    """In whatever order they stand in the file, by record or by number of the stay."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(cohort.stay))
    p = rng.random((len(order), len(RISKS)))
    said, others = told.of_file(cohort, _file(tmp_path / "a.npz", cohort, p_trees=p[order] / 2))
    np.testing.assert_array_equal(said.p, p)
    np.testing.assert_array_equal(said.positive, p > 0.5)
    np.testing.assert_allclose(others["trees"]["sepsis"], p[:, 0] / 2)
    # Numbers count a set's stays in order; gaps do not matter.
    number = 10 + 3 * cohort.stay[order]
    said, _ = told.of_file(cohort, _file(tmp_path / "b.npz", cohort, stay=number))
    np.testing.assert_array_equal(said.p, p)


@pytest.mark.parametrize("change", ["hour", "label", "twice", "stay"])
def test_rows_of_something_else_are_refused(cohort: Cohort, tmp_path: Path, change: str) -> None:
    """With how many, in one line."""
    path = _file(tmp_path / "a.npz", cohort)
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    if change == "hour":
        arrays["hour"] = arrays["hour"] + 5_000
    elif change == "label":
        arrays["label"] = np.where(arrays["label"] >= 0, 1 - arrays["label"], -1)
    elif change == "stay":
        arrays["stay"] = np.char.add(arrays["stay"], "x")
    else:
        arrays = {name: np.concatenate([x, x[:1]]) for name, x in arrays.items()}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"a\.npz"):
        told.of_file(cohort, path)


def test_what_was_not_predicted_is_not_judged(cohort: Cohort, tmp_path: Path) -> None:
    """A risk's rows are those with a number."""
    p = np.full((len(cohort.stay), len(RISKS)), np.nan)
    p[:7, 0] = 0.5
    path = tmp_path / "a.npz"
    arrays = {
        "set": cohort.source[cohort.stay],
        "stay": cohort.record[cohort.stay],
        "hour": cohort.hour,
        "p": p,
        "positive": p > 0.5,
    }
    np.savez(path, **arrays)
    said, _ = told.of_file(cohort, path)
    assert said.rows()["sepsis"].tolist() == list(range(7))
    assert not len(said.rows()["mortality"])


def test_bounds_are_those_of_the_weights_around_what_others_said(
    data: Path, cohort: Cohort, predictor: Predictor, tmp_path: Path
) -> None:
    """Around the weights' own probabilities they are the weights' own bounds."""
    own = told.of_weights(cohort, data, tmp_path, predictor, SETS)
    again = told.bounded(own, own, predictor._model.calibration)
    np.testing.assert_allclose(again.low, own.low, atol=1e-6)
    np.testing.assert_allclose(again.high, own.high, atol=1e-6)
