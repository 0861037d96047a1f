"""The command line: a command for every role, an option for every setting."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from app.failures import BadSetting, explain
from app.launch import role, serve, wait, watched
from app.options import cli, command, group, listed, number, whole

if TYPE_CHECKING:
    from app.settings import Settings

_CLUSTER: Final = ("kafka", "group", "partitions", "replication", "session_timeout_ms")
_WORKER: Final = (
    *("devices", "threads", "spread_experts", "model", "max_batch", "max_wait_ms", "emit"),
    "min_rescore_ms",
    *("max_skew_ms", "max_lag", "stuck_after_s", "snapshot_every_s", "queue_limit"),
    *("stale_after_ms", "max_beds", "bed_idle_h"),
)
_MONITORS: Final = ("beds", "seed", "rate", "history_h", "artefacts")
_STORE: Final = ("database", "data_dir")
_API: Final = ("host", "port", "token", "model", "threads", "devices", "stale_after_ms", "max_beds")


@command("run", *_CLUSTER, *_WORKER, *_STORE, *_API, "simulator", *_MONITORS, "retention_days")
def run(settings: Settings) -> None:
    """[bold]Everything in one process[/]: broker, simulated monitors, worker, ward, API, page.

    Name any real part by its option (--kafka, --database). When the first prediction can be read,
    two lines say where: `ready http://HOST:PORT/#token=…` and `kafka HOST:PORT`.

    The embedded broker keeps everything in memory and forgets it at exit: for trying out only.
    """
    from app.roles.run import roles

    serve(lambda metrics: roles(settings, metrics))


@command("worker", *_CLUSTER, *_WORKER, "host", "ops_port")
def worker(settings: Settings) -> None:
    """Consume observations, predict, publish predictions. Start as many as there are cores."""
    _needs_kafka(settings)
    import_module("app.preflight").model(settings)
    serve(lambda metrics: watched(settings, metrics, role("worker", "Worker", settings, metrics)))


@command(
    "ward",
    *_CLUSTER,
    *_STORE,
    "host",
    "ops_port",
    "stale_after_ms",
    "max_skew_ms",
    "max_lag",
    "max_beds",
    "bed_idle_h",
    "retention_days",
    "model",
)
def ward(settings: Settings) -> None:
    """Consume predictions: alerts, history and trends into the database."""
    _needs_kafka(settings)
    serve(lambda metrics: watched(settings, metrics, role("ward", "Ward", settings, metrics)))


@command("api", *_CLUSTER, *_STORE, *_API)
def api(settings: Settings) -> None:
    """Serve REST, the live stream, the web page, metrics and health."""
    _needs_kafka(settings)
    serve(lambda metrics: [role("api", "Api", settings, metrics)])


@command("simulate", *_CLUSTER, *_MONITORS)
def simulate(settings: Settings) -> None:
    """Publish simulated monitors: physiology, events, artefacts; by seed, the same every time."""
    _needs_kafka(settings)
    serve(lambda metrics: [role("simulate", "Simulate", settings, telemetry=metrics)])


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
    times = None if speed == "max" else number("speed", speed, "a positive number, or max")
    most = None if limit is None else whole("limit", limit, 1)

    serve(
        lambda metrics: [
            role(
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


@command("train", "data", "data_dir", "devices", "threads", "spread_experts")
def train(
    settings: Settings,
    out: Annotated[Path | None, typer.Option(help="Where the weights and the card go.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few minutes, for trying out.")] = False,
    sets: Annotated[str | None, _SETS] = None,
    epochs: Annotated[str, typer.Option(help="Passes over the rows.")] = "4",
    limit: Annotated[str | None, _LIMIT] = None,
    seed: Annotated[str, typer.Option(help="Of everything random.")] = "7",
    ranks: Annotated[
        str | None, typer.Option(help="Local processes that train together; default: one a device.")
    ] = None,
) -> None:
    """Train the model on the recorded sets below --data; goes on where it was stopped.

    Several --devices, or --ranks of this machine, or those that torchrun has started on several
    share the batches of each network; with --spread-experts its experts lie over them instead.
    """
    _needs_data(settings)
    numbers = {
        "epochs": whole("epochs", epochs, 1),
        "limit": None if limit is None else whole("limit", limit, 1),
        "seed": whole("seed", seed, 0),
        "ranks": None if ranks is None else whole("ranks", ranks, 1),
    }
    module = import_module("app.roles.train")
    module.train(settings, out=out, quick=quick, sets=listed(sets), **numbers)


@command("evaluate", "data", "data_dir", "threads", "model")
def evaluate(
    settings: Settings,
    out: Annotated[Path | None, typer.Option(help="Gets weights, card and plots.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Those made out of fold.")] = None,
    sets: Annotated[str | None, _SETS] = None,
    limit: Annotated[str | None, _LIMIT] = None,
) -> None:
    """Measure the model on the test part of the recorded sets below --data."""
    _needs_data(settings)
    most = None if limit is None else whole("limit", limit, 1)
    module = import_module("app.roles.evaluate")
    module.evaluate(settings, out=out, predictions=predictions, sets=listed(sets), limit=most)


@command("topics", "kafka", "partitions", "replication")
def topics(settings: Settings) -> None:
    """Create the topics with their policies; those that exist stay as they are."""
    for topic, count in sorted(wait(import_module("app.roles.topics").create(settings)).items()):
        typer.echo(f"{topic}: {count} partitions")


@command("migrate", *_STORE)
def migrate(settings: Settings) -> None:
    """Bring the database to this release's schema."""
    revision = wait(import_module("app.roles.migrate").migrate(settings))
    typer.echo(
        f"{import_module('app.settings').masked(settings.database_url)}: revision {revision}"
    )


@command("check", *_CLUSTER, *_STORE, *_API, "data", "kernels")
def check(settings: Settings) -> None:
    """Say what is configured, reachable and chosen; exit code 1 where a part is missing."""
    if not wait(import_module("app.roles.check").check(settings)):
        raise SystemExit(1)


group("federate", "Learn over hospitals that share no patient data.", "app.roles.federate")
group("parallel", "Train over ranks; measure hybrid parallelism.", "app.roles.parallel")


def _needs_kafka(settings: Settings) -> None:
    if settings.kafka is None:
        raise BadSetting("kafka: nothing is not allowed: HOST:PORT, comma-separated")


def _needs_data(settings: Settings) -> None:
    """Whatever can be told before PyTorch is loaded is told then: loading takes seconds."""
    if settings.data is None or not settings.data.is_dir():
        shown = "nothing" if settings.data is None else ascii(str(settings.data))
        raise BadSetting(f"data: {shown} is not allowed: the folder of the recorded sets")


def main() -> None:
    """Run `vitalstream`. Exit code 0: done, 1: failed, 2: bad setting or option; one line why."""
    try:
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        # Typer carries a copy of click, whose errors are told by what they can do.
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.ctx.get_help())  # type: ignore[attr-defined]
            sys.exit(2)
        if hasattr(error, "format_message"):
            _fail(2, error.format_message())
        import structlog

        if structlog.is_configured():
            structlog.get_logger("app.cli").debug("failed", exc_info=True)
        _fail(*explain(error))


def _fail(code: int, line: str) -> NoReturn:
    typer.echo(f"vitalstream: {' '.join(line.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
