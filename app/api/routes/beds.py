"""Beds: as they are now, their history and trends, and who lies in them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from app.api import schemas
from app.api.problems import Problem, documented
from app.api.routes import BedIdParameter, answer
from app.api.services import Services, ask, services
from models.signals import INDEX
from streaming.messages import CASES, MAX_BED_ID_BYTES, Case

router = APIRouter(prefix="/v1/beds", tags=["beds"], responses=documented(400, 401, 404, 422))
Given = Annotated[Services, Depends(services)]
Time = Annotated[int | None, Query(ge=0, le=1 << 52, description="ms since the Unix epoch")]
HOUR_MS = 3_600_000
MOST_STEPS = 5_000


@router.get("", responses={200: {"model": schemas.Beds}}, summary="The ward now")
async def beds(given: Given) -> Response:
    """Every bed with its newest prediction, by id."""
    return answer({"beds": given.view.beds(given.clock_ms())})


@router.get(
    "/{bed_id:path}/predictions",
    responses={200: {"model": schemas.Predictions}, **documented(503)},
    summary="A bed's history",
)
async def predictions(
    given: Given,
    bed_id: BedIdParameter,
    from_ms: Time = None,
    to_ms: Time = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> Response:
    """The newest `limit` kept: one a minute, and each that moved an alert; ascending."""
    found = await ask(given.store.predictions, bed_id, from_ms, to_ms, limit)
    return answer({"predictions": found})


@router.get(
    "/{bed_id:path}/trends",
    responses={200: {"model": schemas.Trends}, **documented(503)},
    summary="A bed's trends",
)
async def trends(
    given: Given,
    bed_id: BedIdParameter,
    signals: Annotated[
        str, Query(max_length=1_000, description="Names, comma-separated.", examples=["hr,map"])
    ] = "hr,spo2,resp,map",
    from_ms: Time = None,
    to_ms: Time = None,
    step_s: Annotated[
        int, Query(ge=1, le=86_400, description="Rounded up to whole minutes; the answer says.")
    ] = 60,
) -> Response:
    """Mean, minimum and maximum of each signal by step; by default of the last 24 hours."""
    names = list(dict.fromkeys(name.strip() for name in signals.split(",") if name.strip()))
    if unknown := [name for name in names if name not in INDEX]:
        raise Problem(422, f"signals: there is no {unknown[0][:40]!a}")
    end_ms = given.clock_ms() if to_ms is None else to_ms
    start_ms = max(0, end_ms - 24 * HOUR_MS) if from_ms is None else from_ms
    step_s = -(-step_s // 60) * 60
    start_ms = max(start_ms, end_ms - MOST_STEPS * step_s * 1_000)
    found = await ask(given.store.trends, bed_id, names, max(0, start_ms), end_ms, step_s)
    return answer({"step_s": step_s, "signals": found})


@router.put(
    "/{bed_id:path}/case",
    status_code=202,
    responses={202: {"model": schemas.Accepted}, **documented(503)},
    summary="Someone lies in a bed",
)
async def put_case(given: Given, bed_id: BedIdParameter, case: schemas.PutCase) -> Response:
    """Publish who lies in a bed. A new `case_id` empties the bed's window before anything else."""
    if case.bed_id not in (None, bed_id):
        raise Problem(422, "bed_id: the body speaks of another bed than the path")
    return await _publish(given, bed_id, case.model_dump(exclude_defaults=False))


@router.delete(
    "/{bed_id:path}/case",
    status_code=202,
    responses={202: {"model": schemas.Accepted}, **documented(503)},
    summary="Nobody lies in a bed",
)
async def delete_case(given: Given, bed_id: BedIdParameter) -> Response:
    """Publish that the case of a bed has ended; its window is emptied."""
    return await _publish(given, bed_id, None)


@router.get(
    "/{bed_id:path}",
    responses={200: {"model": schemas.BedDetail}, **documented(404)},
    summary="A bed now",
)
async def bed(given: Given, bed_id: BedIdParameter) -> Response:
    """A bed with its case and its alerts."""
    found = given.view.bed(bed_id, given.clock_ms())
    if found is None:
        raise Problem(404, "this bed was never seen")
    return answer(found)


async def _publish(given: Services, bed_id: str, fields: dict[str, object] | None) -> Response:
    if len(bed_id.encode("utf-8", "replace")) > MAX_BED_ID_BYTES:
        raise Problem(422, f"bed_id: at most {MAX_BED_ID_BYTES} bytes of UTF-8")
    case = None
    if fields is not None:
        try:
            case = msgspec.convert({**fields, "bed_id": bed_id}, Case)
        except msgspec.ValidationError as error:
            raise Problem(422, str(error)) from None
    value = None if case is None else msgspec.json.encode(case)
    await given.publish(CASES, bed_id, value)
    return answer({"bed_id": bed_id, "case_id": None if case is None else case.case_id}, 202)
