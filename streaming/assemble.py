"""The model's arrays become prediction messages: one conversion a batch, one encoding a row. A
model that has written its part of the messages itself spares both.

Numbers are rounded to 6 decimals (values of signals, which are float32, to 4), so that a repeat
says the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.signals import NAMES
from streaming.messages import Driver, Input, Prediction, Risk, Score, Source
from streaming.model import Model, Predictions

DECIMALS = 6
VALUE_DECIMALS = 4
SPELLED = 65_536
"""Ids whose JSON is kept."""


class Subject(NamedTuple):
    """Whom a row of a batch speaks of: the bed, its case, newest event time and newest message."""

    bed_id: str
    case_id: str | None
    ts_ms: int
    partition: int
    offset: int


class Assembler:
    """Turns a model's batches into `messages.Prediction`."""

    def __init__(self, model: Model) -> None:
        self._name = model.name
        self._version = model.version
        self._risks = model.risks
        self._experts = model.experts
        self._scores = model.scores
        self._score_inputs = model.score_inputs
        self._missing: dict[int, list[str]] = {}
        self._encoder = msgspec.json.Encoder()
        model_json = self._encoder.encode({"model": model.name, "model_version": model.version})
        self._head = model_json[1:-1]
        self._spelled: dict[str | None, bytes] = {}

    def encode(
        self, subjects: Sequence[Subject], predicted: Predictions, produced_ms: int
    ) -> list[bytes]:
        """The messages of a batch as JSON, in the order of its rows."""
        encode = self._encoder.encode
        if predicted.text is not None:
            head, named = self._head, self._named
            return [
                b'{"bed_id":%b,"case_id":%b,"ts_ms":%d,"produced_ms":%d,%b,%b,'
                b'"source":{"partition":%d,"offset":%d}}'
                % (named(bed_id), named(case_id), ts_ms, produced_ms, head, text, partition, offset)
                for (bed_id, case_id, ts_ms, partition, offset), text in zip(
                    subjects, predicted.text, strict=True
                )
            ]
        return [encode(p) for p in self.predictions(subjects, predicted, produced_ms)]

    def predictions(
        self, subjects: Sequence[Subject], predicted: Predictions, produced_ms: int
    ) -> list[Prediction]:
        """The messages of a batch, in the order of its rows."""
        rows = len(subjects)
        speaks = predicted.speaks.tolist()
        p, low, high = (_rounded(a) for a in (predicted.p, predicted.low, predicted.high))
        positive = predicted.positive.tolist()
        share = _rounded(predicted.share)
        novelty = _rounded(predicted.novelty)
        score = _rounded(predicted.score)
        missing = predicted.score_missing.tolist()
        inputs = _inputs(predicted.input_value, predicted.input_age_ms, rows)
        driver_signal = predicted.driver_signal.tolist()
        driver_effect = _rounded(predicted.driver_effect)
        risk_names, expert_names, score_names = self._risks, self._experts, self._scores
        name, version, names_of = self._name, self._version, self._names_of
        out = []
        for i in range(rows):
            bed_id, case_id, ts_ms, partition, offset = subjects[i]
            out.append(
                Prediction(
                    bed_id,
                    case_id,
                    ts_ms,
                    produced_ms,
                    name,
                    version,
                    "ok" if speaks[i] else "warming_up",
                    dict(
                        zip(risk_names, map(Risk, p[i], low[i], high[i], positive[i]), strict=True)
                    )
                    if speaks[i]
                    else {},
                    dict(zip(expert_names, share[i], strict=True)),
                    novelty[i],
                    {
                        key: Score(value if value == value else None, names_of(bits))
                        for key, value, bits in zip(score_names, score[i], missing[i], strict=True)
                    },
                    inputs[i],
                    [
                        Driver(NAMES[signal], effect)
                        for signal, effect in zip(driver_signal[i], driver_effect[i], strict=True)
                        if signal >= 0
                    ],
                    Source(partition, offset),
                )
            )
        return out

    def _named(self, name: str | None) -> bytes:
        """A bed's or case's id as JSON; each is spelled once, as long as it is heard of."""
        found = self._spelled.get(name)
        if found is None:
            if len(self._spelled) >= SPELLED:
                self._spelled.clear()
            found = self._spelled[name] = self._encoder.encode(name)
        return found

    def _names_of(self, bits: int) -> list[str]:
        """The score inputs of a bit set; few sets occur, so each is spelled once."""
        names = self._missing.get(bits)
        if names is None:
            names = [n for i, n in enumerate(self._score_inputs) if bits >> i & 1]
            self._missing[bits] = names
        return names


def _rounded(values: NDArray[np.float64]) -> list:  # type: ignore[type-arg]
    # Adding zero turns -0.0 into 0.0.
    return (np.round(np.asarray(values, np.float64), DECIMALS) + 0.0).tolist()  # type: ignore[no-any-return]


def _inputs(
    value: NDArray[np.float32], age_ms: NDArray[np.int64], rows: int
) -> list[dict[str, Input]]:
    """Each row's known signals, from one pass over the whole batch."""
    out: list[dict[str, Input]] = [{} for _ in range(rows)]
    row, signal = np.nonzero(age_ms >= 0)
    values = np.round(value[row, signal].astype(np.float64), VALUE_DECIMALS) + 0.0
    for i, s, v, age in zip(
        row.tolist(), signal.tolist(), values.tolist(), age_ms[row, signal].tolist(), strict=True
    ):
        out[i][NAMES[s]] = Input(v, age)
    return out
