"""Alerts: which there are, and what a person does about them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import structlog
from fastapi import APIRouter, Body, Depends, Path, Query
from starlette.responses import Response

from app.api import schemas
from app.api.problems import Problem, documented
from app.api.routes import answer
from app.api.services import Services, ask, services
from app.ward.actions import Action, StateConflict, UnknownAlert
from streaming.messages import ALERTS, Alert

log = structlog.get_logger(__name__)
router = APIRouter(
    prefix="/v1/alerts", tags=["alerts"], responses=documented(400, 401, 404, 422, 503)
)
Given = Annotated[Services, Depends(services)]
AlertId = Annotated[str, Path(min_length=1, max_length=200, pattern=schemas.BED_PATTERN)]
Said = Annotated[schemas.Action | None, Body()]


@router.get("", responses={200: {"model": schemas.Alerts}}, summary="Alerts, newest first")
async def alerts(
    given: Given,
    state: Annotated[
        Literal["active", "open", "acknowledged", "snoozed", "escalated", "closed", ""] | None,
        Query(description="`active` is every state but closed; empty: all."),
    ] = None,
    bed_id: Annotated[
        str | None, Query(max_length=128, pattern=f"^$|{schemas.BED_PATTERN}")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
) -> Response:
    """Alerts with who did what to them, when and why."""
    return answer({"alerts": await ask(given.store.alerts, state or None, bed_id or None, limit)})


def _route(action: Action, summary: str, text: str) -> None:
    async def act(given: Given, alert_id: AlertId, said: Said = None) -> Response:
        return await _act(given, alert_id, action, said or schemas.Action.model_validate({}))

    act.__doc__ = text
    router.add_api_route(
        f"/{{alert_id}}/{action}",
        act,
        methods=["POST"],
        responses={200: {"model": schemas.Alert}, **documented(404, 409)},
        summary=summary,
        operation_id=f"{action}_alert",
        name=action,
    )


_route("acknowledge", "I have seen it", "Acknowledge an alert: somebody cares.")
_route("snooze", "Later", "Put an alert off for some minutes; it comes back by itself.")
_route("escalate", "Somebody else must come", "Call for more help.")


async def _act(given: Services, alert_id: str, action: Action, said: schemas.Action) -> Response:
    try:
        alert: Alert = await ask(
            given.store.act,
            alert_id,
            action,
            said.by,
            said.reason,
            said.minutes if action == "snooze" else None,
            now_ms=given.clock_ms(),
        )
    except UnknownAlert:
        raise Problem(404, "there is no such alert") from None
    except StateConflict as conflict:
        raise Problem(409, str(conflict)) from None
    except ValueError as error:
        raise Problem(422, str(error)) from None
    given.view.alert(alert, given.clock_ms())
    given.broadcaster.flush()
    try:
        await given.publish(ALERTS, alert.bed_id, msgspec.json.encode(alert))
    except Problem:
        # The database has it, and the ward publishes what the topic lacks.
        log.warning("alert changed, not published yet", action=action)
    return answer(alert)
