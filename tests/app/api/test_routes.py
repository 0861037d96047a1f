"""What REST answers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from app.api.application import PAGE, application, document
from app.api.auth import LARGEST_BODY_BYTES
from app.lifecycle import Health
from streaming.messages import CASES, Case

JSON = "application/json"


def predict(ward: Any, bed: str = "A-07", offset: int = 1, case: str | None = "c1") -> None:
    """Let a prediction arrive."""
    raw = {
        "bed_id": bed, "case_id": case, "ts_ms": ward.now, "produced_ms": ward.now,
        "model": "m", "model_version": "1", "status": "ok",
        "risks": {"sepsis": {"p": 0.1, "low": 0.0, "high": 0.2, "positive": False}},
        "experts": {"general": 1.0}, "novelty": 0.0,
        "scores": {"news2": {"value": 3.0, "missing": []}},
        "inputs": {"hr": {"v": 82.0, "age_ms": 0}},
        "drivers": [{"signal": "hr", "effect": 0.1}],
        "source": {"partition": 0, "offset": offset},
    }  # fmt: skip
    ward.services.view.prediction(json.dumps(raw).encode(), ward.now, ward.now)


def test_beds_show_the_newest_prediction(ward: Any) -> None:
    """BED is the contract's, the prediction is as it came."""
    predict(ward)

    (bed,) = ward.client.get("/v1/beds").json()["beds"]
    assert set(bed) == {"bed_id", "case_id", "stale", "age_ms", "prediction", "open_alerts"}
    assert bed["prediction"]["risks"]["sepsis"]["p"] == 0.1
    assert (bed["stale"], bed["age_ms"], bed["open_alerts"]) == (False, 0, 0)


def test_a_bed_has_its_case_and_alerts(ward: Any) -> None:
    """The bed's page needs one request."""
    ward.services.view.case("A-07", Case("A-07", "c1", "open", ward.now), ward.now, ward.now)
    predict(ward)

    bed = ward.client.get("/v1/beds/A-07").json()
    assert bed["case"]["case_id"] == "c1"
    assert bed["alerts"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/beds/never", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("PATCH", "/v1/beds", 405),
        ("GET", "/v1/beds/A/trends?signals=nonsense", 422),
        ("GET", "/v1/beds/A/predictions?limit=0", 422),
        ("GET", "/v1/beds/A%00/predictions", 422),
        ("POST", "/v1/alerts/none/acknowledge", 404),
        ("POST", "/v1/predictions", 422),
        ("PUT", "/v1/beds/A/case", 422),
        ("GET", "/v1/stream?every_ms=x", 422),
    ],
)
def test_every_error_is_a_problem(ward: Any, method: str, path: str, status: int) -> None:
    """RFC 9457, one form for all."""
    answer = ward.client.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert "Traceback" not in answer.text


def test_a_failure_of_ours_tells_nothing_of_itself(ward: Any) -> None:
    """500 without the cause; the log has it."""

    def fail(_: int) -> None:
        raise RuntimeError("secret of the inside")

    ward.services.view.beds = fail
    answer = ward.client.get("/v1/beds")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


@pytest.mark.parametrize("sent", ["", "Bearer wrong", "Basic dTpw", "Bearer", "Bearer té"])
def test_patient_data_needs_the_token(ward: Any, sent: str) -> None:
    """Every route below /v1 refuses without it, also those that do not exist."""
    paths = [p.replace("{bed_id}", "A").replace("{alert_id}", "x") for p in document()["paths"]]
    for path in [*paths, "/v1/nowhere", "/fhir/metadata"]:
        answer = ward.client.get(path, headers={"authorization": sent.encode()})
        if path.startswith(("/v1", "/fhir")):
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
        else:
            assert answer.status_code != 401, path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/beds", "GET"),
        ("PATCH", "/v1/beds/A/case", "DELETE, GET, PUT"),
        ("GET", "/v1/predictions", "POST"),
        ("GET", "/v1/alerts/a/snooze", "POST"),
        ("DELETE", "/health/ready", "GET"),
    ],
)
def test_a_method_that_is_not_there_is_told_which_are(
    ward: Any, method: str, path: str, allowed: str
) -> None:
    """The route answers, not the page behind it."""
    answer = ward.client.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed


def test_a_body_without_end_is_refused(ward: Any) -> None:
    """Before it is read whole, whether its length is told or not."""
    url, body = "/v1/predictions", b'{"observations": "' + b"x" * LARGEST_BODY_BYTES

    for content in (body, iter([body])):
        answer = ward.client.post(url, content=content, headers={"content-type": JSON})
        assert (answer.status_code, answer.json()["status"]) == (413, 413)
        assert answer.headers["content-type"] == "application/problem+json"


def test_filters_left_empty_filter_nothing(ward: Any) -> None:
    """As a form sends them; what names nothing is not taken for a name."""
    assert ward.client.get("/v1/alerts?state=&bed_id=").json() == {"alerts": []}
    assert ward.client.get("/v1/alerts?state=none").status_code == 422


def test_trends_are_of_whole_minutes(ward: Any) -> None:
    """A finer step is not to be had; the answer says which it is."""
    said = ward.client.get("/v1/beds/A/trends?signals=hr&step_s=90").json()
    assert said == {"step_s": 120, "signals": {"hr": []}}
    assert ward.client.get("/v1/beds/A/trends?signals=hr&step_s=1").json()["step_s"] == 60


def test_a_case_of_another_bed_is_refused(ward: Any) -> None:
    """A body that names its bed says where it belongs."""
    body = {"bed_id": "B", "case_id": "c9", "admitted_ms": ward.now}

    assert ward.client.put("/v1/beds/A/case", json=body).status_code == 422
    assert ward.published == []
    assert ward.client.put("/v1/beds/B/case", json=body).status_code == 202


def test_a_case_is_published_and_accepted(ward: Any) -> None:
    """PUT publishes the case, DELETE a tombstone."""
    body = {"case_id": "c9", "admitted_ms": ward.now, "age_years": 67, "unknown": 1}

    assert ward.client.put("/v1/beds/B%2F1/case", json=body).status_code == 202
    assert ward.client.delete("/v1/beds/B%2F1/case").status_code == 202
    (topic, key, value), gone = ward.published
    assert (topic, key) == (CASES, "B/1")
    assert json.loads(value)["case_id"] == "c9"
    assert gone == (CASES, "B/1", None)


def test_readiness_is_503_with_each_part(ward: Any) -> None:
    """Who watches learns which part it is."""
    ward.parts["database"] = Health(False, "does not answer")

    answer = ward.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["parts"]["database"] == {"ok": False, "detail": "does not answer"}


def test_metrics_and_document_need_no_token(ward: Any) -> None:
    """They hold no patient data."""
    bare = {"authorization": ""}

    assert "vitalstream_messages_total" in ward.client.get("/metrics", headers=bare).text
    assert "never the primary alarm" in ward.client.get("/openapi.json", headers=bare).text


def test_the_reference_needs_nothing_from_elsewhere(ward: Any) -> None:
    """Viewer, style and document come from here, under a policy that allows nothing else."""
    if not (PAGE / "reference").is_dir():
        assert os.environ.get("CI") != "true", "the built page is missing (make web)"
        pytest.skip("the built page is missing (make web)")
    bare = {"authorization": ""}
    answer = ward.client.get("/docs", headers=bare)
    named = re.findall(r'(?:src|href)="([^"]+)"', answer.text)

    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http" not in answer.headers["content-security-policy"]
    assert len(named) >= 4
    for path in named:
        assert path.startswith("/")
        assert ward.client.get(path, headers=bare).status_code == 200, path


def test_without_the_built_page_the_reference_is_a_problem(ward: Any, tmp_path: Path) -> None:
    """It says where the document is."""
    with TestClient(application(ward.services, None, tmp_path)) as client:
        answer = client.get("/docs")

    assert answer.status_code == 404
    assert "/openapi.json" in answer.json()["detail"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_that_is_asked_breaks_the_server(ward: Any, mode: GenerationMode) -> None:
    """Whatever the document allows, and what it does not: no 5xx but the ones it names."""
    predict(ward)
    schema = schemathesis.openapi.from_asgi("/openapi.json", ward.app)
    for result in schema.exclude(path="/v1/stream").get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
        def ask(case: Any) -> None:
            answer = case.call(headers={"authorization": f"Bearer {ward.token}"})
            checks = [status_code_conformance, content_type_conformance]
            if answer.status_code != 503:
                checks += [not_a_server_error, response_schema_conformance]
            case.validate_response(answer, checks=checks)

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "nothing fits this operation"
