"""`vitalstream parallel train`: `models.parallel.train` on ranks of this machine.

On several machines the ranks are started by `torchrun -m models.parallel.train` itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.failures import BadSetting
from app.options import whole
from app.roles.ranks import torchrun


def train(
    data: Annotated[Path, typer.Option(help="Folder of the recorded sets, or of rows.npz.")],
    out: Annotated[Path, typer.Option(help="Where weights, card and losses go.")],
    ranks: Annotated[str, typer.Option(help="Local processes.")] = "2",
    experts: Annotated[
        bool, typer.Option("--experts", help="Spread the specialists over the ranks.")
    ] = False,
    top: Annotated[
        str | None, typer.Option(help="Specialists that answer a row, with --experts; default all.")
    ] = None,
    ratio: Annotated[
        str | None, typer.Option(help="Share of the gradient that travels, such as 0.01.")
    ] = None,
    epochs: Annotated[str, typer.Option(help="Passes over the rows.")] = "1",
    batch: Annotated[str, typer.Option(help="Rows of a step, of all ranks together.")] = "1024",
    rate: Annotated[
        str | None, typer.Option(help="Learning rate; default 0.001, with --ratio 0.05.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Of everything random.")] = "7",
    model: Annotated[Path | None, typer.Option(help="Start; default: the shipped one.")] = None,
    fresh: Annotated[str | None, typer.Option(help="Seed: forget what the start learnt.")] = None,
) -> None:
    """Train over ranks, with the losses and weights of one process; hospitals' labels teach alone.

    Calibration and thresholds stay those of the start: calibrate before use.
    """
    if not data.is_dir():
        raise BadSetting(f"data: {str(data)!a} is not allowed: the folder of the recorded sets")
    if top is not None and not experts:
        raise BadSetting(f"top: {top!a} is not allowed: it goes with --experts")
    if ratio is not None and experts:
        raise BadSetting(f"ratio: {ratio!a} is not allowed: it does not go with --experts")
    given = {
        "data": str(data),
        "out": str(out),
        "epochs": str(whole("epochs", epochs, 0)),
        "batch": str(whole("batch", batch, 1)),
        "rate": None if rate is None else _share("rate", rate),
        "seed": str(whole("seed", seed, 0)),
        "top": None if top is None else str(whole("top", top, 1)),
        "ratio": None if ratio is None else _share("ratio", ratio),
        "model": None if model is None else str(model),
        "fresh": None if fresh is None else str(whole("fresh", fresh, 0)),
    }
    options = [part for k, v in given.items() if v is not None for part in (f"--{k}", v)]
    options += ["--experts"] if experts else []
    torchrun(whole("ranks", ranks, 1), "models.parallel.train", options)
    typer.echo(f"model {out / 'model.safetensors'}")


def _share(name: str, text: str) -> str:
    try:
        if 0 < float(text) <= 1:
            return text
    except ValueError:
        pass
    raise BadSetting(f"{name}: {text!a} is not allowed: above 0, at most 1")
