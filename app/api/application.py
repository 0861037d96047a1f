"""The application: routes, documents, errors, doors and the page, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Security
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from starlette.responses import FileResponse
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from app.api import problems, schemas
from app.api.auth import Door, protected
from app.api.routes import alerts, beds, operations, predictions, stream
from app.api.services import Services

_OPERATIONS: Final = ("/metrics", "/health/")
PAGE: Final = Path(__file__).resolve().parents[1] / "web" / "dist"
DESCRIPTION: Final = """Each bed's newest prediction, its history, its alerts and a live stream.

**Research software: never the primary alarm, no diagnosis.**

Times are integer milliseconds since the Unix epoch, UTC. Values are in the signal's UCUM unit.
Errors are problem details (RFC 9457). Everything below `/v1` needs `Authorization: Bearer TOKEN`.
"""


class _Page(Mount):
    """The page: whatever is not the API's, whose own routes say which methods they have."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """No path of the API."""
        if protected(scope["path"]) or scope["path"].startswith(_OPERATIONS):
            return Match.NONE, {}
        return super().matches(scope)


def application(services: Services, token: str | None, page: Path = PAGE) -> ASGIApp:
    """The ASGI application.

    Args:
        services: What the routes work with.
        token: Bearer token; None asks for none.
        page: The built page; where it is missing, `/` is a problem.
    """
    return Door(_routes(services, page), token, services.metrics)


def _routes(services: Services | None, page: Path) -> FastAPI:
    app = FastAPI(
        title="vitalstream",
        version="0.1.0",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.services = services
    routers = (beds.router, alerts.router, predictions.router, stream.router, operations.router)
    problems.install(app, [route for router in routers for route in router.routes])
    bearer = Security(HTTPBearer(auto_error=False, description="The token of the API."))
    for router in routers:
        app.include_router(router, dependencies=[bearer] if router is not operations.router else [])
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        viewer = page / "reference" / "index.html"
        if not viewer.is_file():
            raise problems.Problem(404, "the page is not built; the document is /openapi.json")
        return FileResponse(viewer)

    if (page / "index.html").is_file():
        app.router.routes.append(_Page("/", StaticFiles(directory=page, html=True), name="page"))
    return app


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return _document(_routes(None, Path("/nowhere")))


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            license_info=app.license_info,
        )
        parts = found["components"]["schemas"]
        parts["Problem"] = schemas.Problem.model_json_schema()
        parts["BedEvent"] = schemas.BedEvent.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            parts.pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema
