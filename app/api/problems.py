"""Errors as RFC 9457 problem details: one form for all of them, no internals, no patient data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from app.api.schemas import Problem as ProblemSchema

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        detail: What to tell the caller.
        headers: Further headers.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def response(
    status: int,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> Response:
    """A problem as a response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
    }
    if detail:
        body["detail"] = detail
    if errors:
        body["errors"] = errors
    return Response(msgspec.json.encode(body), status, dict(headers or {}), MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these statuses."""
    schema = {"schema": {"$ref": f"#/components/schemas/{ProblemSchema.__name__}"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}}
        for status in statuses
    }


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error of the application as a problem; `routes` say which methods there are."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> Response:
        return response(error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        detail = None if error.detail == HTTPStatus(error.status_code).phrase else error.detail
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            found = _methods(request, routes)
            headers = {"allow": ", ".join(sorted(found))} if found else headers
        return response(error.status_code, detail, headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        # Where and what is allowed, never what was sent.
        errors = [
            {"where": ".".join(map(str, e["loc"])), "what": str(e["msg"])}
            for e in error.errors()[:20]
        ]
        return response(422, "the request does not fit its schema", errors=errors)

    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> Response:
        return response(500, "this is our fault; the log has the cause")


def _methods(request: Request, routes: Sequence[BaseRoute]) -> set[str]:
    """What a path answers to; it may be that of more than one route."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found
