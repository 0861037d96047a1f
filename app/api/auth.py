"""The door of the API: bearer token, security headers, the log and the metrics of requests.

Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import hmac
import time
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.metrics import Metrics

log = structlog.get_logger(__name__)

PROTECTED: Final = ("/v1", "/fhir")
"""Everything with patient data lies below these; the page itself and the document have none."""
LARGEST_BODY_BYTES: Final = 8 << 20
"""Room for 5,000 observations of every signal."""
_PAGE_POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def protected(path: str) -> bool:
    """Whether a path needs the token."""
    return any(path == root or path.startswith(f"{root}/") for root in PROTECTED)


class Door:
    """Lets requests in, with the token where one is needed."""

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("content-security-policy", _PAGE_POLICY)
                if protected(scope["path"]):
                    headers["cache-control"] = "no-store"
            await send(message)

        try:
            if protected(scope["path"]) and not self._allowed(scope):
                refusal = problems.response(
                    401, "a bearer token is needed", {"www-authenticate": 'Bearer realm="ward"'}
                )
                await refusal(scope, receive, out)
            else:
                await self._app(scope, _bounded(receive), out)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            if route != "/v1/stream":
                self._metrics.request(scope["method"], route, status, seconds)
            tell = log.debug if status < 400 else log.info if status < 500 else log.error
            tell(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(seconds * 1_000, 1),
            )

    def _allowed(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        for name, value in scope["headers"]:
            if name == b"authorization":
                kind, _, given = value.partition(b" ")
                return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)
        return False


def _bounded(receive: Receive) -> Receive:
    """A body that is refused when it gets too large, not kept."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY_BYTES:
            raise HTTPException(413, f"a body has at most {LARGEST_BODY_BYTES >> 20} MiB")
        return message

    return bounded
