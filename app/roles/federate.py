"""Hospitals that learn together: `vitalstream federate serve`, `join`, `certificates`, `simulate`.

What is heavy is imported when a command runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from app.lifecycle import Deadline, Health
from app.settings import BadSetting, Settings, load

if TYPE_CHECKING:
    from models.federated.hub import Hub, Plan
    from models.federated.site import Site

log = structlog.get_logger(__name__)

_LINGER_S = 12.0
"""Longest time in which the sites hear that all rounds are done."""

commands = typer.Typer(
    help="Learn over hospitals that share no patient data.", no_args_is_help=True
)

Weights = Annotated[Path | None, typer.Option("--model", help="Start; default: the shipped one.")]
Fresh = Annotated[
    int | None, typer.Option("--fresh", help="Seed: forget what the start has learnt.")
]
Certificates = Annotated[Path, typer.Option(help="Folder of certificates, keys and roster.")]


class FederateServe:
    """The server of a federation; finishes when all rounds are done."""

    name = "federate"

    def __init__(
        self,
        settings: Settings,
        certificates: Path,
        folder: Path,
        plan: Plan,
        fresh: int | None = None,
    ) -> None:
        self._settings, self._certificates, self._folder = settings, certificates, folder
        self._plan, self._fresh = plan, fresh
        self._open = AsyncExitStack()
        self._hub: Hub | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where the port is taken, BadSetting for another plan's state."""
        from models.federated import learning
        from models.federated.certificates import read_roster
        from models.federated.hub import Hub
        from models.federated.service import Service

        self._network, _ = learning.base(self._settings.model, self._fresh)
        roster = read_roster(self._certificates / "roster.json")
        start = learning.flat(self._network)
        try:
            self._hub = Hub(self._folder, roster, self._plan, start, time.monotonic())
        except ValueError as error:
            raise BadSetting(f"federate serve: {error}") from error
        self._service = Service(
            self._hub, self._certificates, host=self._settings.host, port=self._settings.port
        )
        await self._open.enter_async_context(self._service.listening())
        typer.echo(f"ready https://{self._settings.host}:{self._service.port}")

    async def wait(self) -> None:
        """Return when all rounds are done, the model is written and the sites have heard so."""
        from models.federated import learning

        assert self._hub is not None
        await self._service.finished()
        path = self._folder / "model.safetensors"
        learning.save(
            self._network, self._hub.model, self._settings.model, path, self._hub.status()
        )
        typer.echo(f"model {path}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._service.all_told(), _LINGER_S)

    async def drain(self, deadline: Deadline) -> None:
        """Close; all that was accepted is on disk already."""
        await self._open.aclose()

    def health(self) -> Mapping[str, Health]:
        """Where the federation is."""
        if self._hub is None:
            return {"federation": Health(False, "starting")}
        said = self._hub.status()
        return {"federation": Health(True, f"{said['succeeded']} of {said['rounds']} rounds")}


class FederateJoin:
    """One hospital; finishes when all rounds are done."""

    name = "federate-join"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._done: asyncio.Future[None] = asyncio.Future()
        self._thread = threading.Thread(target=self._run, daemon=True)

    async def start(self) -> None:
        """Begin to ask for rounds, in a thread: training takes long."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def wait(self) -> None:
        """Return when all rounds are done; raise what ended the site."""
        await asyncio.shield(self._done)

    async def drain(self, deadline: Deadline) -> None:
        """Stop asking; a site that trains now is a dropout of the round."""
        self._site.stop()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, deadline.left_s)

    def health(self) -> Mapping[str, Health]:
        """Whether the site still takes part."""
        return {"site": Health(not self._done.done(), f"{self._site.rounds} rounds")}

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            self._site.run()
        except Exception as error:
            failure = error

        def tell() -> None:
            if failure is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(failure)

        self._loop.call_soon_threadsafe(tell)


@commands.command("certificates")
def certificates(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    names: Annotated[list[str], typer.Argument(help="Names of three or more hospitals.")],
    host: Annotated[list[str] | None, typer.Option(help="Names of the server's host.")] = None,
) -> None:
    """Make keys, certificates and the roster of a federation, for trying out."""
    from models.federated.certificates import make

    try:
        make(folder, names, host or ["127.0.0.1", "localhost"])
    except (ValueError, FileExistsError) as error:
        raise BadSetting(f"federate certificates: {error}") from error


@commands.command("serve")
def serve(
    certificates: Certificates,
    folder: Annotated[Path, typer.Option(help="Where the server's state lies.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8443,
    rounds: Annotated[int, typer.Option(help="Rounds that must succeed.")] = 20,
    strategy: Annotated[str, typer.Option(help="fedavg or fedadam.")] = "fedavg",
    rate: Annotated[float | None, typer.Option(help="Server's learning rate.")] = None,
    bits: Annotated[int, typer.Option(help="Bits of a parameter on the wire: 24 or 32.")] = 32,
    clip: Annotated[float, typer.Option(help="Bound of an entry of an update.")] = 1.0,
    max_weight: Annotated[int, typer.Option(help="Rows of a hospital that count.")] = 100_000,
    threshold: Annotated[int, typer.Option(help="Fewest hospitals; 0: two thirds.")] = 0,
    gather_s: Annotated[float, typer.Option(help="Wait for slow hospitals.")] = 600.0,
    phase_s: Annotated[float, typer.Option(help="Time of each later phase.")] = 60.0,
    model: Weights = None,
    fresh: Fresh = None,
) -> None:
    """Serve a federation: it adds masked updates and never sees one hospital's."""
    from app import lifecycle, logs
    from models.federated import learning
    from models.federated.hub import Plan
    from models.federated.strategy import Strategy

    settings = load(host=host, port=port, model=model)
    logs.configure(settings.log_level, settings.log_format)
    try:
        chosen = Strategy(
            name=strategy,  # type: ignore[arg-type]
            rate=rate if rate is not None else (1.0 if strategy == "fedavg" else 3e-3),
        )
        plan = Plan(
            federation=learning.federation(settings.model),
            rounds=rounds,
            bits=bits,  # type: ignore[arg-type]
            clip=clip,
            max_weight=max_weight,
            threshold=threshold,
            gather_s=gather_s,
            phase_s=phase_s,
            strategy=chosen,
        )
        if rounds < 1:
            raise ValueError(f"rounds must be positive, not {rounds}")
    except ValueError as error:
        raise BadSetting(f"federate serve: {error}") from error
    asyncio.run(lifecycle.serve([FederateServe(settings, certificates, folder, plan, fresh)]))


@commands.command("join")
def join(
    name: Annotated[str, typer.Argument(help="This hospital, as on the roster.")],
    server: Annotated[str, typer.Option(help="https://HOST:PORT of the server.")],
    certificates: Certificates,
    data: Annotated[Path, typer.Option(help="This hospital's own recorded sets or rows.npz.")],
    folder: Annotated[Path, typer.Option(help="Where this hospital's state lies.")],
    rate: Annotated[float, typer.Option(help="Local learning rate.")] = 1e-3,
    passes: Annotated[int, typer.Option(help="Passes over the rows in a round.")] = 1,
    model: Weights = None,
) -> None:
    """Take part with this hospital's data, which never leaves it."""
    from app import lifecycle, logs
    from models.federated import learning
    from models.federated.site import Site

    settings = load(data=data, model=model)
    logs.configure(settings.log_level, settings.log_format)
    try:
        network, _ = learning.base(settings.model, None)
        rows = learning.rows_of(data, folder / "cache", network)
        learner = learning.NetworkLearner(network, rows, rate=rate, passes=passes)
        site = Site(
            name,
            server,
            certificates,
            folder,
            learner,
            federation=learning.federation(settings.model),
        )
    except (ValueError, OSError) as error:
        raise BadSetting(f"federate join: {error}") from error

    async def main() -> None:
        await lifecycle.serve([FederateJoin(site)])

    asyncio.run(main())


@commands.command("simulate")
def simulate(
    data: Annotated[Path, typer.Option(help="Folder of the recorded sets.")],
    folder: Annotated[Path, typer.Option(help="A folder for all that is made.")],
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 12,
    limit: Annotated[int | None, typer.Option(help="About how many stays of each set.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Rows made before.")] = None,
) -> None:
    """Units of the recorded sets as hospitals, each a process; beside pooled and local training."""
    from app import logs
    from models.federated.simulation import simulate as run

    settings = load(data=data)
    logs.configure(settings.log_level, settings.log_format)
    try:
        for line in run(data, folder, rounds=rounds, limit=limit, cache=cache):
            typer.echo(line)
    except ValueError as error:
        raise BadSetting(f"federate simulate: {error}") from error
