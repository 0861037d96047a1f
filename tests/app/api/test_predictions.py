"""`POST /v1/predictions` with whatever a stranger sends, on the shipped model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from models import predictor
from streaming.adhoc import AdHoc

HOUR_MS = 3_600_000


@pytest.fixture
def client(ward: Any, model: Any) -> Iterator[Any]:
    """A client of an API that has its model."""
    adhoc = AdHoc(model)
    ward.client.portal.call(adhoc.start, 0.0)
    ward.services.adhoc = adhoc
    yield ward.client
    ward.client.portal.call(adhoc.stop)


@pytest.fixture(scope="module")
def model() -> Any:
    """The shipped model."""
    return predictor.load(None, "cpu", 1)


def ask(client: Any, observations: Any, case: Any = None) -> Any:
    """Ask with a body that JSON itself would refuse, too: NaN and infinities."""
    body = {"observations": observations} | ({} if case is None else {"case": case})
    return client.post(
        "/v1/predictions",
        content=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )


def at(ts_ms: int, **values: Any) -> dict[str, Any]:
    """One observation."""
    return {"ts_ms": ts_ms, "values": values}


@pytest.mark.parametrize(
    ("observations", "case"),
    [
        ([], None),
        ("none", None),
        ([at(-1, hr=80)], None),
        ([at(1 << 60, hr=80)], None),
        ([{"ts_ms": "now", "values": {}}], None),
        ([{"ts_ms": 1}], None),
        ([at(1, hr=float("nan"))], None),
        ([at(1, hr=float("inf"))], None),
        ([at(1, hr="high")], None),
        ([at(1, hr=[1])], None),
        ([{"ts_ms": 1, "values": {f"x{i}": 1 for i in range(201)}}], None),
        ([at(i, hr=80) for i in range(5_001)], None),
        ([at(1, hr=80)], {"age_years": -1}),
        ([at(1, hr=80)], {"age_years": float("nan")}),
        ([at(1, hr=80)], {"case_id": ""}),
        ([at(1, hr=80)], {"case_id": "x" * 300}),
        ([at(1, hr=80)], {"admitted_ms": -5}),
        ([at(1, hr=80)], {"sex": "unknown"}),
        ([at(1, hr=80)], {"problems": ["x" * 65]}),
        ([at(1, hr=80)], {"problems": ["x"] * 257}),
        ([at(1, hr=80)], {"weight_kg": 0}),
    ],
)
def test_what_cannot_be_meant_is_a_clear_422(client: Any, observations: Any, case: Any) -> None:
    """It says where, and never repeats what was sent."""
    answer = ask(client, observations, case)

    assert answer.status_code == 422, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said.get("errors") or said["detail"]
    assert len(answer.content) < 5_000


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 100_000])
def test_what_is_no_request_is_a_422(client: Any, body: bytes) -> None:
    """Also bytes that are no text, and depth that would end a parser."""
    answer = client.post(
        "/v1/predictions", content=body, headers={"content-type": "application/json"}
    )

    assert answer.status_code in (400, 422), answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "observations",
    [
        [at(0)],
        [at(0, hr=None)],
        [at(1_000, hr=80), at(1_000, hr=90), at(1_000, hr=80)],
        [at(0, hr=80), at(1 << 52, hr=90)],
        [at(1 << 52, hr=80), at(0, hr=90)],
        [at(5 * HOUR_MS - i, hr=80) for i in range(5_000)],
        [at(1_000, hr=1e300, spo2=-1e300, map=1e-320)],
        [at(1_000, nonsense=1, hr=82)],
    ],
)
def test_what_is_odd_is_still_answered(client: Any, observations: Any) -> None:
    """Repeats, any order, no values, times far apart, values out of bounds, unknown signals."""
    answer = ask(client, observations)

    assert answer.status_code == 200, answer.text[:300]
    said = answer.json()
    assert said["ts_ms"] == max(each["ts_ms"] for each in observations)
    assert said["source"] == {"partition": -1, "offset": -1}
    assert set(said["inputs"]) <= {"hr"}
    assert all(
        0 <= risk["low"] <= risk["p"] <= risk["high"] <= 1 for risk in said["risks"].values()
    )


def test_a_case_counts_from_its_admission_in_any_distance(client: Any) -> None:
    """Admitted long before, after or never said: each is answered."""
    for admitted_ms in (0, 1 << 52, None):
        case = {"case_id": "c", "age_years": 70, "admitted_ms": admitted_ms}
        answer = ask(client, [at(10 * HOUR_MS, hr=120, map=55, lactate=4)], case)
        assert answer.status_code == 200, answer.text[:300]
        assert answer.json()["case_id"] == "c"


def test_the_order_of_sending_changes_no_number(client: Any) -> None:
    """A window is a function of the set of observations."""
    observations = [at(k * 60_000, hr=70 + k, map=80 - k, spo2=96) for k in range(40)]
    one = ask(client, observations).json()
    other = ask(client, observations[::-1]).json()

    assert {**one, "produced_ms": 0} == {**other, "produced_ms": 0}


@pytest.mark.parametrize("bed", ["A-07", "Haus 3/Zimmer 2", "ICU/1/2", "Б-7", "床七", "a%b", "é"])
def test_beds_of_any_name_are_addressed_by_percent_encoding(ward: Any, bed: str) -> None:
    """Slashes and any script; a case put twice is published twice, a bed never seen may be
    emptied.
    """
    from urllib.parse import quote

    path = f"/v1/beds/{quote(bed, safe='')}"
    case = {"case_id": "c1", "admitted_ms": ward.now}

    assert ward.client.get(path).status_code == 404
    assert ward.client.delete(f"{path}/case").status_code == 202
    for _ in range(2):
        answer = ward.client.put(f"{path}/case", json=case)
        assert (answer.status_code, answer.json()["bed_id"]) == (202, bed)
    assert [(key, value is None) for _, key, value in ward.published] == [
        (bed, True),
        (bed, False),
        (bed, False),
    ]
    assert ward.client.get(f"{path}/predictions").json() == {"predictions": []}


@pytest.mark.parametrize("bed", ["x" * 129, "床" * 43, "a%00b", "a%0Ab", "%FF%FE"])
def test_a_bed_that_can_be_none_is_refused(ward: Any, bed: str) -> None:
    """Too long in bytes, control characters, bytes that are no UTF-8."""
    answer = ward.client.put(
        f"/v1/beds/{bed}/case", json={"case_id": "c1", "admitted_ms": ward.now}
    )

    assert answer.status_code in (404, 422), answer.text
    assert ward.published == []
