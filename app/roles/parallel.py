"""`vitalstream parallel bench`: the systems of hybrid parallelism, measured on this machine.

What is heavy is imported when the command runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.failures import BadSetting
from app.options import listed, whole
from app.roles.parallel_train import train

commands = typer.Typer(
    help="Hybrid parallelism: experts, volumes, gradients, hospitals.", no_args_is_help=True
)


commands.command("train")(train)


@commands.command("bench")
def bench(
    ranks: Annotated[str, typer.Option(help="Local processes.")] = "4",
    systems: Annotated[
        str | None,
        typer.Option(
            help="Names, comma-separated: experts, convolution, reshard, gradients, secure-sum, "
            "transport; default all."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu: gloo over loopback; cuda: NCCL.")] = "cpu",
    kernels: Annotated[
        Path | None, typer.Option(help="Kernel library that make -C cuda built.")
    ] = None,
    result: Annotated[
        Path | None, typer.Option("--json", help="File that the rows are written to as well.")
    ] = None,
) -> None:
    """Measure each system beside what it replaces, in one run, and print a table.

    A few minutes. Times are of this machine under its present load: compare within a run.
    """
    from models.parallel import bench as measuring
    from models.parallel.measured import Row, table

    world = whole("ranks", ranks, 2)
    names = listed(systems) or list(measuring.SYSTEMS)
    if unknown := sorted(set(names) - set(measuring.SYSTEMS)):
        raise BadSetting(
            f"systems: {unknown[0]!a} is not allowed: some of {', '.join(measuring.SYSTEMS)}"
        )
    if kernels is not None and not kernels.is_file():
        raise BadSetting(f"kernels: {str(kernels)!a} is not allowed: a library's file")
    if device not in ("cpu", "cuda"):
        raise BadSetting(f"device: {device!a} is not allowed: cpu or cuda")
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    rows: list[Row] = []
    with console.status(names[0]) as status:
        for name, found in measuring.run(names, world, device, kernels):
            rows += found
            if result is not None:  # what is measured is kept if a later system fails
                result.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
            after = names.index(name) + 1
            status.update(names[after] if after < len(names) else "done")
    console.print(table(rows, f"{world} processes, {device}, {os.cpu_count()} cores"))
