"""Units of the recorded sets as hospitals: federated, pooled and local-only training compared.

Each hospital is a process of `vitalstream federate join` with only its own rows in its folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features import CASE_FEATURES, UNITS
from models.federated import certificates, learning
from models.network import RISKS, Network
from models.training.cache import SETS, Table, build, folder_of
from models.training.evaluate import part
from models.training.fit import logits_of
from models.training.metrics import discrimination

_LEAST_ROWS: Final = 200
_FRESH: Final = 7
START: Final = "start/model.safetensors"


def sites_of(table: Table) -> dict[str, NDArray[np.bool_]]:
    """Rows of each site: unit types of 2012 and of each hospital of 2019."""
    units = np.stack([table.case[:, CASE_FEATURES.index(unit)] > 0.5 for unit in UNITS], 1)
    unit = np.where(units.any(1), units.argmax(1), len(UNITS))
    found = {}
    for source, name in enumerate(SETS):
        if name == "eicu-demo":
            continue
        for hospital in (-1, 0, 1):
            for number, kind in enumerate((*UNITS, "other")):
                rows = (table.source == source) & (table.hospital == hospital) & (unit == number)
                if rows.sum() >= _LEAST_ROWS:
                    letter = {-1: "", 0: "-a", 1: "-b"}[hospital]
                    found[f"{name[-4:]}{letter}-{kind.replace('_', '-')}"] = rows
    return found


def auroc(network: Network, table: Table) -> dict[str, float]:
    """AUROC of each risk over the rows where it is known."""
    logits, _, _ = logits_of(network, table)
    said = {}
    for risk, name in enumerate(RISKS):
        known = table.labels[:, risk] >= 0
        found = discrimination(
            1 / (1 + np.exp(-logits[known, risk])), table.labels[known, risk] == 1
        )
        if "auroc" in found:
            said[name] = float(found["auroc"])
    return said


def simulate(
    data: Path, folder: Path, *, rounds: int, limit: int | None, cache: Path | None = None
) -> Iterator[str]:
    """Train in all three ways from the same fresh start; yields lines of the comparison.

    Raises:
        ValueError: Fewer than three sites, or a set that is not there.
        RuntimeError: A process failed.
    """
    network, _ = learning.base(None, None)
    names = tuple(n for n in SETS if n != "eicu-demo" and folder_of(data, n).is_dir())
    if not names:
        raise ValueError(f"{data} has no set with units")
    table = build(
        data, cache or folder / "cache", names, limit, network.features, 7, fit_typical=False
    )
    train, test = part(table, "train"), part(table, "test")
    sites = sites_of(train)
    if len(sites) < 3:
        raise ValueError(f"{len(sites)} sites have {_LEAST_ROWS} rows; three are needed")
    yield f"{len(sites)} sites: " + ", ".join(f"{n} {int(r.sum())}" for n, r in sites.items())
    # The start has the typical values that these rows were made with.
    learning.save(
        network, learning.flat(network), None, folder / START, {"succeeded": 0, "federation": ""}
    )
    for name, rows in sites.items():
        learning.write(folder / name / learning.ROWS, train.select(rows))
    yield from compare(folder, list(sites), train, test, rounds)


def compare(
    folder: Path, sites: list[str], train: Table, test: Table, rounds: int
) -> Iterator[str]:
    """The three ways over sites whose rows lie in their folders."""
    start, _ = learning.base(folder / START, _FRESH)
    at = learning.flat(start)
    federate(folder, sites, rounds)
    federated, _ = learning.base(folder / "hub" / "model.safetensors", None)
    yield _line("federated", auroc(federated, test))
    for name in ("pooled", *sites):
        rows = train if name == "pooled" else learning.read(folder / name / learning.ROWS)
        network, _ = learning.base(folder / START, _FRESH)
        learner, vector = learning.NetworkLearner(network, rows, rate=1e-3), at.copy()
        for number in range(1, rounds + 1):
            vector = vector + learner.train(vector, number)[0]
        learning.fill(network, vector)
        yield _line(name if name == "pooled" else f"local {name}", auroc(network, test))


def federate(folder: Path, sites: list[str], rounds: int) -> None:
    """Server and sites as processes; returns when all have ended well, the model in `hub`."""
    keys = folder / "certificates"
    if not (keys / "roster.json").exists():
        certificates.make(keys, sites)
    base = [sys.executable, "-m", "app.cli", "federate"]
    serve = ["serve", "--port", "0", "--fresh", str(_FRESH), "--rounds", str(rounds)]
    where = ["--certificates", str(keys), "--model", str(folder / START), "--folder"]
    started: list[subprocess.Popen[str]] = []
    try:
        with (folder / "server.log").open("w") as log:
            server = subprocess.Popen(
                [*base, *serve, *where, str(folder / "hub")],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(server)
        assert server.stdout is not None
        url = next((line.split()[1] for line in server.stdout if line.startswith("ready ")), None)
        if url is None:
            raise RuntimeError(f"the server did not start; see {folder / 'server.log'}")
        for name in sites:
            own = ["join", name, "--server", url, "--data", str(folder / name)]
            with (folder / f"{name}.log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [*base, *own, *where, str(folder / name)], stdout=log, stderr=log, text=True
                    )
                )
        for process in started[1:]:
            # A site ends when it has heard that all rounds are done, or by a failure of its own.
            if process.wait() != 0:
                raise RuntimeError(f"a site failed; see the logs in {folder}")
        if server.wait() != 0:
            raise RuntimeError(f"the server failed; see {folder / 'server.log'}")
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _line(what: str, said: dict[str, float]) -> str:
    mean = float(np.mean(list(said.values())))
    each = "  ".join(f"{name} {value:.4f}" for name, value in said.items())
    return f"{what:32s} mean {mean:.4f}  {each}"
