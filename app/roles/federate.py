"""Hospitals that learn together: `vitalstream federate serve`, `join`, `certificates`, `simulate`.

What is heavy is imported when a command runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.roles.federation import FederateJoin, FederateServe
from app.settings import BadSetting, load

commands = typer.Typer(
    help="Learn over hospitals that share no patient data.", no_args_is_help=True
)

Weights = Annotated[Path | None, typer.Option("--model", help="Start; default: the shipped one.")]
Fresh = Annotated[
    int | None, typer.Option("--fresh", help="Seed: forget what the start has learnt.")
]
Certificates = Annotated[Path, typer.Option(help="Folder of certificates, keys and roster.")]


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
    rounds: Annotated[int, typer.Option(help="Rounds of learning that must succeed.")] = 120,
    strategy: Annotated[str, typer.Option(help="fedadamw, fedadam or fedavg.")] = "fedadamw",
    rate: Annotated[float | None, typer.Option(help="Server's learning rate.")] = None,
    share: Annotated[float, typer.Option(help="Part of a hospital's rows in a round.")] = 0.05,
    local_rate: Annotated[float | None, typer.Option(help="Hospitals' learning rate.")] = None,
    batch: Annotated[int, typer.Option(help="Rows of a hospital's step.")] = 512,
    keep: Annotated[float, typer.Option(help="Part of the parameters sent in a round.")] = 1.0,
    bits: Annotated[int, typer.Option(help="Bits of a parameter: 24, 31 or 32.")] = 31,
    clip: Annotated[float, typer.Option(help="Bound of an entry of an update.")] = 1.0,
    max_weight: Annotated[int, typer.Option(help="Rows of a hospital that count.")] = 100_000,
    threshold: Annotated[int, typer.Option(help="Fewest hospitals; 0: two thirds.")] = 0,
    private: Annotated[str, typer.Option(help="no, or who is hidden: hospital, stay.")] = "no",
    norm: Annotated[float, typer.Option(help="Bound of what is hidden, with --private.")] = 1.0,
    noise: Annotated[float, typer.Option(help="Noise over the bound, with --private.")] = 1.0,
    calibrate: Annotated[bool, typer.Option(help="Calibrate in the last two rounds.")] = True,
    gather_s: Annotated[float, typer.Option(help="Wait for slow hospitals.")] = 600.0,
    phase_s: Annotated[float, typer.Option(help="Time of each later phase.")] = 60.0,
    model: Weights = None,
    fresh: Fresh = None,
) -> None:
    """Serve a federation: it adds masked updates and never sees one hospital's.

    FedAdamW and FedAdam take mean gradients of the hospitals' local steps, FedAvg the mean of the
    models that they end with after a pass. A private federation neither counts nor calibrates.
    """
    from app import lifecycle, logs
    from models.federated.model import federation
    from models.federated.plans import plan_of

    settings = load(host=host, port=port, model=model)
    logs.configure(settings.log_level, settings.log_format)
    try:
        plan = plan_of(
            federation(settings.model),
            rounds=rounds,
            strategy=strategy,
            rate=rate,
            share=share,
            local_rate=local_rate,
            batch=batch,
            keep=keep,
            bits=bits,
            clip=clip,
            max_weight=max_weight,
            threshold=threshold,
            private=private,
            norm=norm,
            noise=noise,
            calibrate=calibrate,
            gather_s=gather_s,
            phase_s=phase_s,
        )
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
    passes: Annotated[int, typer.Option(help="Passes in a round of FedAvg.")] = 1,
    epsilon: Annotated[
        float | None, typer.Option(help="Take part in private rounds only, up to this at 1e-5.")
    ] = None,
    model: Weights = None,
) -> None:
    """Take part with this hospital's data, which never leaves it."""
    from app import lifecycle, logs
    from models.federated import learning
    from models.federated.privacy import Budget
    from models.federated.site import Site

    settings = load(data=data, model=model)
    logs.configure(settings.log_level, settings.log_format)
    try:
        network, _ = learning.base(settings.model, None)
        rows, held = learning.parts_of(data, folder / "cache", network)
        learner = learning.NetworkLearner(network, rows, passes=passes, held=held)
        budget = None if epsilon is None else Budget(folder / "privacy.json", epsilon)
        site = Site(
            name,
            server,
            certificates,
            folder,
            learner,
            federation=learning.federation(settings.model),
            budget=budget,
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
    rounds: Annotated[int, typer.Option(help="Rounds of learning.")] = 120,
    share: Annotated[float, typer.Option(help="Part of a hospital's rows in a round.")] = 0.05,
    stays: Annotated[float, typer.Option(help="Part of the stays that is used.")] = 1.0,
    cache: Annotated[Path | None, typer.Option(help="Rows made before.")] = None,
) -> None:
    """Units of the recorded sets as hospitals, each a process; beside pooled and local training."""
    from app import logs
    from models.federated.simulation import simulate as run

    settings = load(data=data)
    logs.configure(settings.log_level, settings.log_format)
    try:
        for line in run(data, folder, rounds=rounds, share=share, stays=stays, cache=cache):
            typer.echo(line)
    except ValueError as error:
        raise BadSetting(f"federate simulate: {error}") from error
