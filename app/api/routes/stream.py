"""The live stream."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import StreamingResponse

from app.api.problems import Problem, documented
from app.api.services import Services, services

router = APIRouter(prefix="/v1", tags=["stream"], responses=documented(401, 422))
Given = Annotated[Services, Depends(services)]


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`prediction` (the value of `icu.predictions`), `alert` (ALERT) and "
            "`bed` (BedEvent); comments every 10 s. A new reader gets the state of every bed "
            "first; a slow one the newest of each.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
    summary="Server-sent events",
)
async def stream(
    given: Given,
    beds: Annotated[
        str | None, Query(max_length=20_000, description="Beds, comma-separated; empty: all.")
    ] = None,
    every_ms: Annotated[
        int, Query(ge=0, le=60_000, description="Least time between rounds; 0 sends at once.")
    ] = 0,
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="Resumes after this event.")
    ] = None,
) -> StreamingResponse:
    """Every bed's newest prediction, its state and its alerts, as they come."""
    chosen = frozenset(bed for bed in beds.split(",") if bed) if beds else None
    if chosen is not None and not chosen:
        raise Problem(422, "beds: at least one, comma-separated")
    return StreamingResponse(
        given.broadcaster.read(last_event_id, chosen, every_ms / 1_000),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )
