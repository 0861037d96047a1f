"""Predictions for whoever asks."""

import asyncio
import importlib.util
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from streaming.adhoc import AdHoc
from streaming.messages import Observation
from streaming.shards import DevicesFailed


def tiny_model() -> Any:
    """The deterministic stand-in of `load_tests/tiny_worker.py`."""
    path = Path(__file__).resolve().parents[2] / "load_tests" / "tiny_worker.py"
    spec = importlib.util.spec_from_file_location("tiny_worker", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault("tiny_worker", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module.TinyModel()


async def test_requests_do_not_see_each_other() -> None:
    """A hundred requests at once, each answered from its own observations, slots given back."""
    adhoc = AdHoc(tiny_model())
    await adhoc.start(0)
    try:
        answers = await asyncio.gather(
            *(
                adhoc.predict(None, [Observation("x", 1_000_000, {"hr": 60.0 + i, "spo2": 97})])
                for i in range(100)
            )
        )
    finally:
        await adhoc.stop()
    assert [a.inputs["hr"].v for a in answers] == [60.0 + i for i in range(100)]
    assert answers[0].source.offset == -1


async def test_what_is_out_of_bounds_or_unknown_is_left_out() -> None:
    """The same rules as in the stream; a request without any observation is an error."""
    adhoc = AdHoc(tiny_model())
    await adhoc.start(0)
    try:
        answer = await adhoc.predict(
            None, [Observation("x", 5_000, {"hr": 9_000, "zeal": 3, "temp": None})]
        )
        assert answer.inputs == {}
        assert answer.status == "warming_up"
        with pytest.raises(ValueError, match="observations"):
            await adhoc.predict(None, [])
    finally:
        await adhoc.stop()
    with pytest.raises(DevicesFailed):
        await adhoc.predict(None, [Observation("x", 5_000, {})])


async def test_a_request_given_up_before_its_turn_disturbs_nobody() -> None:
    """Cancelled before it is taken from the queue: its slot is free, the others are answered."""
    adhoc = AdHoc(tiny_model())
    await adhoc.start(0)
    try:
        asked = [
            asyncio.create_task(adhoc.predict(None, [Observation("x", 1_000, {"hr": 60.0 + i})]))
            for i in range(3)
        ]
        await asyncio.sleep(0)  # all are in the queue, none is taken
        assert asked[0].cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        again = await adhoc.predict(None, [Observation("x", 1_000, {"hr": 99.0})])
    finally:
        await adhoc.stop()
    assert isinstance(answers[0], asyncio.CancelledError)
    said = [answer.inputs["hr"].v for answer in (*answers[1:], again)]  # type: ignore[union-attr]
    assert said == [61.0, 62.0, 99.0]


async def test_a_device_that_hangs_keeps_nobody_waiting_for_ever() -> None:
    """Requests fail after a while and leave room for others; once it goes on, it answers again."""
    model, gate = tiny_model(), threading.Event()
    predict = model.predict

    def hang(windows: Any) -> Any:
        gate.wait(20)
        return predict(windows)

    model.predict = hang
    adhoc = AdHoc(model, limit=2, answer_s=0.05)
    await adhoc.start(0)
    try:
        for _ in range(5):
            with pytest.raises(DevicesFailed, match="does not answer"):
                await adhoc.predict(None, [Observation("x", 1_000, {"hr": 60.0})])
        gate.set()
        adhoc._answer_s = 20.0
        answer = await adhoc.predict(None, [Observation("x", 1_000, {"hr": 61.0})])
    finally:
        gate.set()
        await adhoc.stop()
    assert answer.inputs["hr"].v == 61.0
