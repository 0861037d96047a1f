"""Metrics and health: no patient data, no token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from app.api import schemas
from app.api.routes import answer
from app.api.services import Services, services
from app.metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])
Given = Annotated[Services, Depends(services)]


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    summary="Prometheus text",
)
async def metrics(given: Given) -> Response:
    """Metrics of this process."""
    return Response(given.metrics.exposition(), headers={"content-type": CONTENT_TYPE})


@router.get(
    "/health/live", responses={200: {"model": schemas.Liveness}}, summary="Whether it lives"
)
async def live() -> Response:
    """200 as long as the process answers at all."""
    return answer({"status": "ok"})


@router.get(
    "/health/ready",
    responses={
        200: {"model": schemas.Readiness},
        503: {"model": schemas.Readiness, "description": "A part is not ready."},
    },
    summary="Whether it does its work",
)
async def ready(given: Given) -> Response:
    """200 or 503, with the state of each part."""
    parts = given.health()
    well = all(part.ok for part in parts.values())
    body = {
        "status": "ok" if well else "unready",
        "parts": {name: {"ok": part.ok, "detail": part.detail} for name, part in parts.items()},
    }
    return answer(body, 200 if well else 503)
