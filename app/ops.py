"""A process's own small HTTP server: metrics and health, no patient data, no token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.lifecycle import Health

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: `lifecycle.serve` is the only place that has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Ops:
    """Serves `/metrics`, `/health/live` and `/health/ready` of one process.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        metrics: Prometheus text of the process and its content type.
        health: Parts of the process by name; called for each request.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Callable[[], tuple[bytes, str]],
        health: Callable[[], Mapping[str, Health]],
    ) -> None:
        self._address = (host, port)
        self._metrics = metrics
        self._health = health
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = port

    async def start(self) -> None:
        """Bind, serve, log the port. Raises OSError where the port is taken."""
        listener = socket.socket(
            socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET, socket.SOCK_STREAM
        )
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._address)
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        app = Starlette(
            routes=[
                Route("/metrics", self._get_metrics),
                Route("/health/live", self._get_live),
                Route("/health/ready", self._get_ready),
            ]
        )
        self._server = _Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="ops")
        log.info("metrics and health", url=f"http://{self._address[0]}:{self.port}")

    async def stop(self) -> None:
        """Stop serving; may be called twice, or before `start`."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        self._server.force_exit = True
        await asyncio.gather(self._serving, return_exceptions=True)
        self._server = self._serving = None

    async def _get_metrics(self, request: Request) -> Response:
        body, kind = self._metrics()
        return Response(body, headers={"content-type": kind})

    async def _get_live(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _get_ready(self, request: Request) -> Response:
        parts = self._health()
        ready = all(part.ok for part in parts.values())
        body = {
            "status": "ok" if ready else "unready",
            "parts": {n: {"ok": part.ok, "detail": part.detail} for n, part in parts.items()},
        }
        return JSONResponse(body, 200 if ready else 503)
