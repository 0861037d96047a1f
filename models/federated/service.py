"""The hub over HTTPS: every request comes over TLS 1.3 from a hospital whose key is on the roster.

GET  /v1/status
GET  /v1/task                               204 while there is none, after a wait
GET  /v1/rounds/{number}/material           MessagePack
POST /v1/rounds/{number}/messages           MessagePack
GET  /v1/rounds/{number}/answers/{phase}    204 while the phase is not over, after a wait
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from models.federated.certificates import name_of
from models.federated.errors import ProtocolError, UnknownClient, WrongSize
from models.federated.hub import Hub
from models.federated.messages import PHASES, Message, Phase

log = structlog.get_logger(__name__)

WAIT_S: Final = 5.0
_STATUS: Final = {"unknown_client": 403, "wrong_size": 413, "bad_signature": 400}


class Service:
    """A hub that listens.

    Args:
        hub: What answers.
        certificates: Folder with ca.pem, server.pem and server.key.
        clock: Of the hub's phases, in seconds.
    """

    def __init__(
        self,
        hub: Hub,
        certificates: Path,
        *,
        host: str,
        port: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub, self._clock = hub, clock
        self._changed = asyncio.Condition()
        self._told: set[str] = set()
        config = uvicorn.Config(
            self._application(),
            host=host,
            port=port,
            http=self._protocol(),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            ssl_certfile=certificates / "server.pem",
            ssl_keyfile=certificates / "server.key",
            ssl_ca_certs=str(certificates / "ca.pem"),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            timeout_graceful_shutdown=2,
        )
        config.load()
        assert config.ssl is not None
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._server = uvicorn.Server(config)

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen, and close phases by the clock, until left."""
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup()
        loop = asyncio.create_task(self._server.main_loop())
        ticks = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            self._server.should_exit = True
            ticks.cancel()
            await asyncio.gather(loop, ticks, return_exceptions=True)
            await self._server.shutdown()

    async def finished(self) -> None:
        """Return when all rounds are done."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.hub.finished)

    async def all_told(self) -> None:
        """Return when every hospital has heard that all rounds are done."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._told == self.hub.roster.keys())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            if self.hub.tick(self._clock()):
                await self._tell()

    async def _tell(self) -> None:
        log.info("federation", **{k: v for k, v in self.hub.status().items() if k != "past"})
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, found: Callable[[], Any]) -> Any:
        """What `found` gives when it gives something, None after the wait."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S), self._changed:
                return await self._changed.wait_for(found)
        return None

    def _application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/status", self._status),
                Route("/v1/task", self._task),
                Route("/v1/rounds/{number:int}/material", self._material),
                Route("/v1/rounds/{number:int}/messages", self._messages, methods=["POST"]),
                Route("/v1/rounds/{number:int}/answers/{phase}", self._answer),
            ],
            exception_handlers={ProtocolError: _refused},
        )

    async def _status(self, request: Request) -> Response:
        _sender(request)
        return JSONResponse(self.hub.status())

    async def _task(self, request: Request) -> Response:
        sender = _sender(request)
        await self._until(lambda: self.hub.finished or self.hub.offer(sender))
        if self.hub.finished:
            self._told.add(sender)
            async with self._changed:
                self._changed.notify_all()
            return JSONResponse({"code": "finished", "detail": "all rounds are done"}, 410)
        task = self.hub.offer(sender)
        return Response(status_code=204) if task is None else _packed(task)

    async def _material(self, request: Request) -> Response:
        _sender(request)
        return Response(self.hub.material(request.path_params["number"]))

    async def _messages(self, request: Request) -> Response:
        sender, body = _sender(request), bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.hub.most_bytes:
                raise WrongSize("a message longer than any of the round's")
        try:
            message = msgspec.msgpack.decode(body, type=Message)
        except msgspec.DecodeError as error:
            raise ProtocolError("no message of the secure sum") from error
        before = self.hub.round
        phase = before and before.phase
        self.hub.receive(sender, request.path_params["number"], message, self._clock())
        if self.hub.round is not before or (before and before.phase != phase):
            await self._tell()
        return Response(status_code=202)

    async def _answer(self, request: Request) -> Response:
        sender, number = _sender(request), request.path_params["number"]
        phase: Phase = request.path_params["phase"]
        if phase not in PHASES:
            raise ProtocolError("there is no such phase")
        told = await self._until(lambda: self.hub.answer(sender, number, phase))
        return Response(status_code=204) if told is None else _packed(told)

    def _protocol(self) -> type[H11Protocol]:
        """HTTP whose requests say by whose key the connection was made."""
        roster = self.hub.roster

        class Known(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                found = transport.get_extra_info("ssl_object")
                name = name_of(found.getpeercert(binary_form=True), roster)
                inner = self.app

                async def named(scope: Any, receive: Any, send: Any) -> None:
                    await inner({**scope, "hospital": name}, receive, send)

                self.app = named

        return Known


def _sender(request: Request) -> str:
    name: str | None = request.scope["hospital"]
    if name is None:
        raise UnknownClient("the certificate's key is not on the roster")
    return name


def _packed(said: Any) -> Response:
    return Response(msgspec.msgpack.encode(said), media_type="application/vnd.msgpack")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProtocolError)
    log.warning("refused", code=error.code)
    return JSONResponse({"code": error.code, "detail": str(error)}, _STATUS.get(error.code, 409))
