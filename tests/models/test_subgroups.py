"""Subgroups: every patient belongs to one unit, one sex and, across birthdays smoothly, an age."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.features import CASE_FEATURES, STATIC, F, of_case
from models.subgroups import SUBGROUPS, G, members
from streaming.messages import Case

AGES = [i for i, name in enumerate(SUBGROUPS) if name.startswith("age")]


def belongs(**known: object) -> dict[str, float]:
    """What a case belongs to, as far as it belongs anywhere."""
    case = np.zeros(F, np.float32)
    case[:STATIC] = of_case(Case(bed_id="b", case_id="a", status="open", admitted_ms=0, **known))
    found = members(torch.from_numpy(case)).tolist()
    return {name: part for name, part in zip(SUBGROUPS, found, strict=True) if part > 1e-6}


def test_a_case_belongs_to_its_unit_its_sex_and_its_age() -> None:
    """Wholly to an age band at its top, half to each of two between them."""
    assert belongs(unit_type="coronary", sex="female", age_years=55) == pytest.approx(
        {"coronary": 1, "female": 1, "age 55": 1}
    )
    half = belongs(unit_type="neuro", sex="male", age_years=(72 + 87) / 2)
    assert half == pytest.approx({"neuro": 1, "male": 1, "age 72": 0.5, "age 87": 0.5})
    assert set(belongs()) == {"age 55", "age 72"}


@given(st.floats(-1e6, 1e6))
def test_every_age_belongs_somewhere_and_wholly(age: float) -> None:
    """Shares of age bands sum to 1, also of ages that nobody has."""
    case = torch.zeros(F)
    case[CASE_FEATURES.index("age")] = age
    found = members(case)[AGES]
    assert float(found.sum()) == pytest.approx(1)
    assert len(SUBGROUPS) == G and (found >= 0).all()
