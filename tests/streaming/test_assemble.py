"""From the model's arrays to prediction messages."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from models.signals import COUNT, INDEX
from streaming.assemble import Assembler, Subject
from streaming.messages import Prediction
from streaming.model import Predictions

MODEL: Any = SimpleNamespace(
    name="net",
    version="1",
    risks=("sepsis", "mortality"),
    experts=("general", "oncology"),
    scores=("news2", "qsofa"),
    score_inputs=("resp", "spo2", "acvpu"),
)


def predicted(rows: int) -> Predictions:
    """A batch with known numbers; the last row does not speak."""
    value = np.full((rows, COUNT), np.nan, np.float32)
    age = np.full((rows, COUNT), -1, np.int64)
    value[:, INDEX["temp"]] = 36.6
    age[:, INDEX["temp"]] = 1500
    speaks = np.ones(rows, bool)
    speaks[-1] = False
    risk = np.full((rows, 2), 0.12345678901)
    return Predictions(
        speaks=speaks,
        p=risk,
        low=risk / 2,
        high=risk * 2,
        positive=np.tile([True, False], (rows, 1)),
        share=np.tile([0.75, 0.25], (rows, 1)),
        novelty=np.full(rows, -0.0),
        score=np.tile([3.0, np.nan], (rows, 1)),
        score_missing=np.tile(np.array([0b100, 0b111], np.uint32), (rows, 1)),
        input_value=value,
        input_age_ms=age,
        driver_signal=np.tile(np.array([INDEX["temp"], -1], np.int16), (rows, 1)),
        driver_effect=np.tile([-0.5, 0.0], (rows, 1)),
    )


def test_every_field_of_the_contract_is_there() -> None:
    """A row becomes the message that the schema describes, rounded, with no NaN."""
    subjects = [Subject("A-07", "c1", 1000, 3, 41), Subject("A-08", None, 1001, 3, 42)]
    first, second = (
        msgspec.json.decode(raw, type=Prediction, strict=True)
        for raw in Assembler(MODEL).encode(subjects, predicted(2), 5000)
    )
    assert msgspec.to_builtins(first) == {
        "bed_id": "A-07",
        "case_id": "c1",
        "ts_ms": 1000,
        "produced_ms": 5000,
        "model": "net",
        "model_version": "1",
        "status": "ok",
        "risks": {
            "sepsis": {"p": 0.123457, "low": 0.061728, "high": 0.246914, "positive": True},
            "mortality": {"p": 0.123457, "low": 0.061728, "high": 0.246914, "positive": False},
        },
        "experts": {"general": 0.75, "oncology": 0.25},
        "novelty": 0.0,
        "scores": {
            "news2": {"value": 3.0, "missing": ["acvpu"]},
            "qsofa": {"value": None, "missing": ["resp", "spo2", "acvpu"]},
        },
        "inputs": {"temp": {"v": 36.6, "age_ms": 1500}},
        "drivers": [{"signal": "temp", "effect": -0.5}],
        "source": {"partition": 3, "offset": 41},
    }
    assert second.status == "warming_up"
    assert second.risks == {}
    assert second.case_id is None


def test_a_repeat_says_the_same_bytes_but_for_the_time_of_production() -> None:
    """The place in the batch leaves no trace in a row's message."""
    subject = Subject("A-07", "c1", 1000, 3, 41)
    other = Subject("x", None, 5, 0, 0)
    first = Assembler(MODEL).encode([subject, other], predicted(2), 1)[0]
    among = Assembler(MODEL).encode([other, subject, other], predicted(3), 1)[1]
    assert first == among
