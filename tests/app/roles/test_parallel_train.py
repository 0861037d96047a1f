"""What `vitalstream parallel train` refuses before any rank is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.failures import BadSetting
from app.roles.parallel_train import train


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"data": Path("nowhere")}, "data: 'nowhere'"),
        ({"top": "1"}, "top: '1' .* --experts"),
        ({"experts": True, "ratio": "0.1"}, "ratio: '0.1'"),
        ({"rate": "2"}, "rate: '2'"),
        ({"ratio": "much"}, "ratio: 'much'"),
        ({"ranks": "0"}, "ranks: '0'"),
        ({"experts": True, "top": "0"}, "top: '0'"),
    ],
)
def test_a_setting_out_of_bounds_is_named(
    given: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    """One line with the value and what is allowed."""
    with pytest.raises(BadSetting, match=sentence):
        train(**{"data": tmp_path, "out": tmp_path, **given})
