"""The engine's text of a prediction is the message that the assembler makes of the arrays."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import native
from models.explain import DRIVERS
from models.moe import EXPERTS
from models.native.writer import Writer
from models.network import RISKS
from models.scores import SCORE_INPUTS, SCORES
from models.signals import COUNT, HIGH, LOW
from streaming.assemble import Assembler, Subject
from streaming.messages import Prediction
from streaming.model import Predictions

MODEL = SimpleNamespace(
    name='a "net"',
    version="1",
    risks=RISKS,
    experts=EXPERTS,
    scores=SCORES,
    score_inputs=SCORE_INPUTS,
)


@pytest.fixture(autouse=True)
def engine(require) -> None:
    """These tests need the library."""
    require("serving engine", native.available(), "models/native/build.py builds it")


def drawn(seed: int, rows: int) -> Predictions:
    """Any numbers a model can say, among them whole ones, halves of the last place and nothing."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int, scale: float = 1.0) -> np.ndarray:
        x = rng.random(shape) * scale
        x[rng.random(shape) < 0.2] = 0.0
        x[rng.random(shape) < 0.1] = 1.0
        half = rng.random(shape) < 0.2
        return np.where(half, np.floor(x * 1e6) / 1e6 + 5e-7, x)

    age = rng.integers(-1, 3, (rows, COUNT)) * rng.integers(1, 1 << 40, (rows, COUNT))
    score = np.floor(numbers(rows, len(SCORES), scale=20.0))
    score[rng.random(score.shape) < 0.3] = np.nan
    return Predictions(
        speaks=rng.random(rows) < 0.7,
        p=numbers(rows, len(RISKS)),
        low=numbers(rows, len(RISKS)),
        high=numbers(rows, len(RISKS)),
        positive=rng.random((rows, len(RISKS))) < 0.5,
        share=numbers(rows, len(EXPERTS)),
        novelty=numbers(rows),
        score=score,
        score_missing=rng.integers(0, 1 << len(SCORE_INPUTS), score.shape).astype(np.uint32),
        input_value=(LOW + (HIGH - LOW) * rng.random((rows, COUNT))).astype(np.float32),
        input_age_ms=np.maximum(age, -1),
        driver_signal=rng.integers(-1, COUNT, (rows, DRIVERS)).astype(np.int16),
        driver_effect=numbers(rows, DRIVERS, scale=8.0) - 4.0,
    )


@given(st.integers(0, 1 << 30), st.integers(0, 9), st.text(min_size=1))
def test_text_and_arrays_say_the_same(seed: int, rows: int, bed: str) -> None:
    """Every field of every row, to the last bit, whatever the bed is called."""
    predicted = drawn(seed, rows)
    arrays = {f.name: getattr(predicted, f.name) for f in dataclasses.fields(predicted)}
    written = dataclasses.replace(predicted, text=Writer()(arrays))
    case = None if seed % 2 else bed[::-1]
    subjects = [Subject(bed, case, 1_000 + i, 3, seed + i) for i in range(rows)]
    assembler = Assembler(MODEL)  # type: ignore[arg-type]
    expected = assembler.predictions(subjects, predicted, 5_000)
    said = assembler.encode(subjects, written, 5_000)
    assert [msgspec.json.decode(raw, type=Prediction, strict=True) for raw in said] == expected


def test_the_fields_stand_in_the_contracts_order() -> None:
    """As in a message that was encoded from its type."""
    predicted = drawn(1, 2)
    predicted.p[:] = 0.25
    predicted.driver_effect[:] = -1.5
    arrays = {f.name: getattr(predicted, f.name) for f in dataclasses.fields(predicted)}
    written = dataclasses.replace(predicted, text=Writer()(arrays))
    subjects = [Subject("A-07", None, 1_000, 3, 41), Subject("A-08", "c", 1_001, 3, 42)]
    assembler = Assembler(MODEL)  # type: ignore[arg-type]
    said, expected = (assembler.encode(subjects, p, 5_000) for p in (written, predicted))
    for ours, theirs in zip(said, expected, strict=True):
        order = [list(msgspec.json.decode(raw)) for raw in (ours, theirs)]
        assert order[0] == order[1]
