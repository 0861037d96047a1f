"""Predictions for observations that belong to no bed, and the card of the model that makes them."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.api import schemas
from app.api.problems import Problem, documented
from app.api.routes import answer
from app.api.services import Services, services
from streaming.adhoc import Busy
from streaming.messages import Case, Observation
from streaming.shards import DevicesFailed

router = APIRouter(prefix="/v1", tags=["model"], responses=documented(401))
Given = Annotated[Services, Depends(services)]
BED = "adhoc"


@router.post(
    "/predictions",
    responses={200: {"model": schemas.Prediction}, **documented(400, 413, 422, 503)},
    summary="Predict for observations of no bed",
)
async def predict(given: Given, asked: schemas.AdhocRequest) -> Response:
    """One prediction from a case and its observations, by the same batcher; nothing is kept."""
    if given.adhoc is None:
        raise Problem(503, "the model is being loaded", {"retry-after": "5"})
    if any(
        value is not None and not math.isfinite(value)
        for observation in asked.observations
        for value in observation.values.values()
    ):
        raise Problem(422, "values: finite numbers, or null")
    case = None
    first_ms = min(observation.ts_ms for observation in asked.observations)
    if asked.case is not None:
        fields = asked.case.model_dump()
        fields["bed_id"] = BED
        if fields["admitted_ms"] is None:
            fields["admitted_ms"] = first_ms
        try:
            case = msgspec.convert(fields, Case)
        except msgspec.ValidationError as error:
            raise Problem(422, str(error)) from None
    case_id = None if case is None else case.case_id
    observations = [Observation(BED, o.ts_ms, o.values, case_id) for o in asked.observations]
    try:
        return answer(await given.adhoc.predict(case, observations))
    except ValueError as error:
        raise Problem(422, str(error)) from None
    except (Busy, DevicesFailed):
        raise Problem(503, "the model is busy or has failed", {"retry-after": "1"}) from None


@router.get(
    "/model", responses={200: {"model": schemas.ModelCard}}, summary="The model and its results"
)
async def model(given: Given) -> Response:
    """The card shipped with the weights: what was measured, on which split, and its limits."""
    return answer(given.card())
