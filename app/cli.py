"""The command line: a command for every role, an option for every setting."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import typing
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import structlog
import typer

from app import logs
from app.roles import federate
from app.settings import BadSetting, Settings, load, masked

if TYPE_CHECKING:
    from app.lifecycle import Role
    from app.metrics import Metrics

cli = typer.Typer(
    name="vitalstream",
    help="Real-time ICU vital-signs inference: monitors in, predictions out, over Kafka.\n\n"
    "Research software: never the primary alarm, no diagnosis.",
    epilog="Every option is also an environment variable (VITALSTREAM_KAFKA) "
    "and a key of a TOML file (--config).",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

_PANELS: Final = {
    "Connections": ("kafka", "database", "token", "host", "port", "ops_port"),
    "Files": ("data_dir", "data", "model"),
    "Model and devices": ("devices", "threads", "max_batch", "max_wait_ms"),
    "Stream": (
        *("group", "partitions", "replication", "emit", "min_rescore_ms", "stale_after_ms"),
        *("max_skew_ms", "max_lag", "stuck_after_s", "snapshot_every_s", "session_timeout_ms"),
        "queue_limit",
    ),
    "Simulator": ("simulator", "beds", "seed", "rate", "history_h", "artefacts"),
    "Ward": ("retention_days",),
    "Logs": ("log_level", "log_format"),
}
_PANEL_OF: Final = {name: panel for panel, names in _PANELS.items() for name in names}

_LOGS: Final = ("log_level", "log_format")
_CLUSTER: Final = ("kafka", "group", "partitions", "replication", "session_timeout_ms")
_WORKER: Final = (
    *("devices", "threads", "model", "max_batch", "max_wait_ms", "emit", "min_rescore_ms"),
    *("max_skew_ms", "max_lag", "stuck_after_s", "snapshot_every_s", "queue_limit"),
    "stale_after_ms",
)
_MONITORS: Final = ("beds", "seed", "rate", "history_h", "artefacts")
_STORE: Final = ("database", "data_dir")
_API: Final = ("host", "port", "token", "model", "threads", "devices", "stale_after_ms")


def command(name: str, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of the settings, and of options of its own, a command with these options."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name != "settings"
        ]
        settings = [_option(setting) for setting in dict.fromkeys((*names, *_LOGS))]

        @wraps(function)
        def wrapper(**given: Any) -> None:
            chosen = {key: given.pop(key) for key in [p.name for p in settings] if key != "config"}
            found = load(given.pop("config"), **chosen)
            logs.configure(found.log_level, found.log_format)
            function(found, **given)

        parameters = [*own, *settings, _CONFIG]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        cli.command(name)(wrapper)
        return function

    return decorate


def _option(name: str) -> inspect.Parameter:
    """A setting as an option; its text goes to the settings as it is, which say what is allowed."""
    field = Settings.model_fields[name]
    flag = name.replace("_", "-")
    default = "" if field.default is None else f" [dim]default {field.default}[/]"
    kind: Any = Annotated[
        str | None,
        typer.Option(
            f"--{flag}",
            help=f"{field.description}{default}",
            metavar=name.rpartition("_")[2].upper(),
            show_default=False,
            rich_help_panel=_PANEL_OF[name],
        ),
    ]
    if field.annotation is bool:
        kind = Annotated[
            bool | None,
            typer.Option(
                f"--{flag}/--no-{flag}",
                help=field.description,
                show_default=False,
                rich_help_panel=_PANEL_OF[name],
            ),
        ]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


_CONFIG: Final = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of settings.", rich_help_panel="Files"),
    ],
)


@command("run", *_CLUSTER, *_WORKER, *_STORE, *_API, "simulator", *_MONITORS, "retention_days")
def run(settings: Settings) -> None:
    """[bold]Everything in one process[/]: broker, simulated monitors, worker, ward, API, page.

    Name any real part by its option (--kafka, --database). When the first prediction can be read,
    two lines say where: `ready http://HOST:PORT/#token=…` and `kafka HOST:PORT`.

    The embedded broker keeps everything in memory and forgets it at exit: for trying out only.
    """
    from app.roles.run import roles

    _serve(lambda metrics: roles(settings, metrics))


@command("worker", *_CLUSTER, *_WORKER, "host", "ops_port")
def worker(settings: Settings) -> None:
    """Consume observations, predict, publish predictions. Start as many as there are cores."""
    _needs_kafka(settings)
    _serve(
        lambda metrics: _watched(settings, metrics, _role("worker", "Worker", settings, metrics))
    )


@command(
    "ward",
    *_CLUSTER,
    *_STORE,
    "host",
    "ops_port",
    "stale_after_ms",
    "max_skew_ms",
    "max_lag",
    "retention_days",
)
def ward(settings: Settings) -> None:
    """Consume predictions: alerts, history and trends into the database."""
    _needs_kafka(settings)
    _serve(lambda metrics: _watched(settings, metrics, _role("ward", "Ward", settings, metrics)))


@command("api", *_CLUSTER, *_STORE, *_API)
def api(settings: Settings) -> None:
    """Serve REST, the live stream, the web page, metrics and health."""
    _needs_kafka(settings)
    _serve(lambda metrics: [_role("api", "Api", settings, metrics)])


@command("simulate", *_CLUSTER, *_MONITORS)
def simulate(settings: Settings) -> None:
    """Publish simulated monitors: physiology, events, artefacts; by seed, the same every time."""
    _needs_kafka(settings)
    _serve(lambda metrics: [_role("simulate", "Simulate", settings, telemetry=metrics)])


@command("replay", *_CLUSTER, "data")
def replay(
    settings: Settings,
    dataset: Annotated[
        str, typer.Argument(help="physionet2012, physionet2019, eicu-demo, bidmc or physionet2009.")
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Archives or folders; default: the set below --data."),
    ] = None,
    speed: Annotated[str, typer.Option(help="Times real time, or max.")] = "1",
    limit: Annotated[str | None, typer.Option(help="Records at most.")] = None,
) -> None:
    """Publish a recorded set as if its monitors were here now; ends when all is acknowledged."""
    _needs_kafka(settings)
    times = None if speed == "max" else _number("speed", speed, "a positive number, or max")
    most = None if limit is None else _whole("limit", limit, 1)

    _serve(
        lambda metrics: [
            _role(
                "replay",
                "Replay",
                settings,
                dataset,
                paths or [],
                speed=times,
                limit=most,
                progress=sys.stderr.isatty(),
                telemetry=metrics,
            )
        ]
    )


_SETS: Final[Any] = typer.Option(
    help="Names, comma-separated: physionet2019,physionet2012,eicu-demo; default all."
)
_LIMIT: Final[Any] = typer.Option(help="About how many stays of each set; default all.")


@command("train", "data", "data_dir", "devices", "threads")
def train(
    settings: Settings,
    out: Annotated[Path | None, typer.Option(help="Where the weights and the card go.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few minutes, for trying out.")] = False,
    sets: Annotated[str | None, _SETS] = None,
    epochs: Annotated[str, typer.Option(help="Passes over the rows.")] = "8",
    limit: Annotated[str | None, _LIMIT] = None,
    seed: Annotated[str, typer.Option(help="Of everything random.")] = "7",
) -> None:
    """Train the model on the recorded sets below --data; goes on where it was stopped."""
    _needs_data(settings)
    import_module("app.roles.train").train(
        settings,
        out=out,
        quick=quick,
        sets=_names(sets),
        epochs=_whole("epochs", epochs, 1),
        limit=None if limit is None else _whole("limit", limit, 1),
        seed=_whole("seed", seed, 0),
    )


@command("evaluate", "data", "data_dir", "devices", "threads", "model")
def evaluate(
    settings: Settings,
    out: Annotated[Path | None, typer.Option(help="The file of figures to write.")] = None,
    sets: Annotated[str | None, _SETS] = None,
    limit: Annotated[str | None, _LIMIT] = None,
) -> None:
    """Measure the model on the test part of the recorded sets below --data."""
    _needs_data(settings)
    import_module("app.roles.evaluate").evaluate(
        settings,
        out=out,
        sets=_names(sets),
        limit=None if limit is None else _whole("limit", limit, 1),
    )


@command("topics", "kafka", "partitions", "replication")
def topics(settings: Settings) -> None:
    """Create the topics with their policies; those that exist stay as they are."""
    for topic, count in sorted(_wait(import_module("app.roles.topics").create(settings)).items()):
        typer.echo(f"{topic}: {count} partitions")


@command("migrate", *_STORE)
def migrate(settings: Settings) -> None:
    """Bring the database to this release's schema."""
    revision = _wait(import_module("app.roles.migrate").migrate(settings))
    typer.echo(f"{masked(settings.database_url)}: revision {revision}")


@command("check", *_CLUSTER, *_STORE, *_API, "data")
def check(settings: Settings) -> None:
    """Say what is configured, reachable and chosen; exit code 1 where a part is missing."""
    from app.roles.check import check as examine

    if not _wait(examine(settings)):
        raise SystemExit(1)


cli.add_typer(federate.commands, name="federate")


def _needs_kafka(settings: Settings) -> None:
    if settings.kafka is None:
        raise BadSetting("kafka: nothing is not allowed: HOST:PORT, comma-separated")


def _needs_data(settings: Settings) -> None:
    """Tell it before PyTorch is loaded, which takes seconds."""
    if settings.data is None or not settings.data.is_dir():
        shown = "nothing" if settings.data is None else ascii(str(settings.data))
        raise BadSetting(f"data: {shown} is not allowed: the folder of the recorded sets")


def _number(name: str, text: str, allowed: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadSetting(f"{name}: {text!a} is not allowed: {allowed}") from None


def _whole(name: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:18]) >= least):
        raise BadSetting(f"{name}: {text!a} is not allowed: a whole number, at least {least}")
    return int(text[:18])


def _names(text: str | None) -> list[str] | None:
    """Names between commas; None where none is given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _role(module: str, name: str, *given: Any, **named: Any) -> Role:
    """A role that is imported, in a thread, when it starts: signals are heard meanwhile."""
    from app.roles.late import Late

    def make() -> Role:
        role: Role = getattr(import_module(f"app.roles.{module}"), name)(*given, **named)
        return role

    return Late(module, make, lambda: import_module(f"app.roles.{module}"))


def _watched(settings: Settings, metrics: Metrics, role: Role) -> Sequence[Role]:
    from app.roles.ops import Operations

    metrics.watch(role.health)
    return [Operations(settings, metrics.page, role.health), role]


def _serve(make: Callable[[Metrics], Sequence[Role]]) -> None:
    import uvloop

    from app.lifecycle import serve
    from app.metrics import Metrics

    async def main() -> None:
        await serve(make(Metrics()))
        # Everything is closed. Left from inside the loop, whose handlers still hear signals: a
        # second ctrl-C changes nothing, and no thread that imports something is waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    signal.signal(signal.SIGTERM, _nothing_started)
    signal.signal(signal.SIGINT, _nothing_started)
    uvloop.run(main())


def _wait(work: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(work)


def _nothing_started(*_: object) -> None:
    os._exit(0)


def main() -> None:
    """Run `vitalstream`. Exit code 0: done, 1: failed, 2: bad setting or option; one line why."""
    try:
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        from app.failures import explain

        # Typer carries a copy of click, whose errors are told by what they can do.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.ctx.get_help())  # type: ignore[attr-defined]
            sys.exit(2)
        if hasattr(error, "format_message"):
            _fail(2, error.format_message())
        if structlog.is_configured():
            structlog.get_logger("app.cli").debug("failed", exc_info=True)
        _fail(*explain(error))


def _fail(code: int, line: str) -> NoReturn:
    typer.echo(f"vitalstream: {' '.join(line.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
