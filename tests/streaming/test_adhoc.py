"""Predictions for whoever asks."""

import asyncio
import importlib.util
import sys
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
