"""Units and hospitals of the recorded sets as sites: federated, pooled and local training compared.

Each hospital is a process of `vitalstream federate join` with only its own rows in its folder.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.data import open_set
from models.features import CASE_FEATURES, UNITS
from models.federated import certificates, learning
from models.federated.course import Course, Plan
from models.federated.messages import usual_threshold
from models.federated.model import informed, logits_of, save, shares_of
from models.federated.noise import normal
from models.federated.outgoing import Outgoing
from models.federated.plans import plan_of
from models.federated.server import Result
from models.moe import EXPERTS
from models.network import RISKS, Network
from models.training.cache import SETS, Table, build, folder_of
from models.training.evaluate import part, without_outcome

_LEAST_ROWS: Final = 200
_EICU: Final = SETS.index("eicu-demo")
_EICU_SITES: Final = 6
"""Largest hospitals of eICU that are sites, by rows."""
_HOURS: Final = 16
"""Of each training stay."""
FRESH: Final = 7
START: Final = "start/model.safetensors"


def sites_of(
    table: Table, hospital: NDArray[np.str_] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Rows of each site: units of 2012 and of both hospitals of 2019, large hospitals of eICU.

    Args:
        table: Rows of all.
        hospital: Name of each row's hospital of eICU, empty elsewhere.
    """
    units = np.stack([table.case[:, CASE_FEATURES.index(unit)] > 0.5 for unit in UNITS], 1)
    unit = np.where(units.any(1), units.argmax(1), len(UNITS))
    found = {}
    for source, name in enumerate(SETS):
        if source == _EICU:
            continue
        for number in (-1, 0, 1):
            for at, kind in enumerate((*UNITS, "other")):
                rows = (table.source == source) & (table.hospital == number) & (unit == at)
                if (rows & (table.part == 0)).sum() >= _LEAST_ROWS:
                    letter = {-1: "", 0: "-a", 1: "-b"}[number]
                    found[f"{name[-4:]}{letter}-{kind.replace('_', '-')}"] = rows
    if hospital is not None:
        named = hospital[(hospital != "") & (table.part == 0)]
        names, count = np.unique(named, return_counts=True)
        for at in np.argsort(-count, kind="stable")[:_EICU_SITES]:
            if count[at] >= _LEAST_ROWS:
                found[f"eicu-{names[at]}"] = hospital == names[at]
    return found


def hospitals_of(data: Path, table: Table) -> NDArray[np.str_]:
    """Name of each row's hospital of eICU, empty elsewhere; the table holds all of its stays."""
    stays = open_set("eicu-demo", [folder_of(data, "eicu-demo")], labels=True)
    names = np.array([(s.labels.hospital or "") if s.labels is not None else "" for s in stays])
    found = np.full(len(table.stay), "", names.dtype)
    eicu = table.source == _EICU
    # The set is read last, and each set's stays are numbered from the start of a chunk.
    found[eicu] = names[table.stay[eicu] - table.stay[eicu].min() // 500 * 500]
    return found


def thinned(table: Table) -> NDArray[np.bool_]:
    """Some hours of each training stay, and all that a sepsis label marks; all other rows."""
    rng = np.random.default_rng(7)
    chance = rng.random(len(table.stay))
    order = np.lexsort((chance, table.stay))
    first = np.concatenate([[True], np.diff(table.stay[order]) != 0])
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    kept = np.zeros(len(order), np.bool_)
    kept[order] = rank < _HOURS
    kept |= table.labels[:, RISKS.index("sepsis")] == 1
    kept |= table.part != 0
    return kept


def auroc(network: Network, table: Table) -> dict[str, float]:
    """AUROC of each risk over the rows where it is known, and of the gate's cardiology share."""
    logits = logits_of(network, table)
    said = {}
    for risk, name in enumerate(RISKS):
        known = table.labels[:, risk] >= 0
        label = table.labels[known, risk] == 1
        if 0 < label.sum() < len(label):
            said[name] = float(roc_auc_score(label, logits[known, risk]))
    routed = (table.source == _EICU) & (table.expert >= 0)
    heart = table.expert[routed] & 2 > 0
    if 0 < heart.sum() < len(heart):
        share = shares_of(network, table.select(routed))[:, EXPERTS.index("cardiology")]
        said["gate"] = float(roc_auc_score(heart, share))
    return said


def simulate(
    data: Path,
    folder: Path,
    *,
    rounds: int,
    share: float,
    stays: float,
    cache: Path | None = None,
) -> Iterator[str]:
    """Train in all three ways from the same fresh start; yields lines of the comparison.

    Args:
        data: Folder of the recorded sets.
        folder: For all that is made.
        rounds: Of learning.
        share: Part of a site's rows in a round.
        stays: Part of the stays of 2012 and 2019 that are used; eICU's are few and all used.
        cache: Rows made before.

    Raises:
        ValueError: Fewer than three sites, or a set that is not there.
        RuntimeError: A process failed.
    """
    network, _ = learning.base(None, None)
    names = tuple(name for name in SETS if folder_of(data, name).is_dir())
    if not names:
        raise ValueError(f"{data} has no set")
    cache = cache or folder / "cache"
    table = build(data, cache, names, None, network.features, fit_typical=False)
    hospital = hospitals_of(data, table) if names[-1] == SETS[_EICU] else None
    kept = thinned(table)
    table, hospital = table.select(kept), None if hospital is None else hospital[kept]
    table = without_outcome(table)
    chosen = np.random.default_rng(7).random(int(table.stay.max()) + 1)[table.stay] < stays
    chosen |= table.source == _EICU
    table, hospital = table.select(chosen), None if hospital is None else hospital[chosen]
    sites = sites_of(table, hospital)
    if len(sites) < 3:
        raise ValueError(f"{len(sites)} sites have {_LEAST_ROWS} rows; three are needed")
    # The start has the typical values that these rows were made with.
    save(network, learning.flat(network), None, folder / START, {"succeeded": 0, "federation": ""})
    parts = {name: table.select(rows) for name, rows in sites.items()}
    counted = {name: int((rows.part == 0).sum()) for name, rows in parts.items()}
    yield f"{len(sites)} sites: " + ", ".join(f"{n} {rows}" for n, rows in counted.items())
    for name, rows in parts.items():
        learning.write(folder / name / learning.ROWS, rows)
    pooled = table.select(np.any(list(sites.values()), 0))
    yield from compare(folder, list(sites), pooled, part(table, "test"), rounds, share)


def compare(
    folder: Path, sites: list[str], pooled: Table, test: Table, rounds: int, share: float
) -> Iterator[str]:
    """The three ways over sites whose rows lie in their folders."""
    yield _line("start", auroc(learning.base(folder / START, FRESH)[0], test))
    options = ["--rounds", str(rounds), "--share", str(share), "--fresh", str(FRESH)]
    federate(folder, sites, options)
    federated, _ = learning.base(folder / "hub" / "model.safetensors", None)
    yield _line("federated", auroc(federated, test))
    plan = plan_of("simulation", rounds=rounds, share=share, calibrate=False)
    alone = {"pooled": pooled} | {n: learning.read(folder / n / learning.ROWS) for n in sites}
    for name, rows in alone.items():
        network, _ = learning.base(folder / START, FRESH)
        train(plan, network, [rows])
        yield _line(name if name == "pooled" else f"local {name}", auroc(network, test))


def train(plan: Plan, network: Network, sites: Sequence[Table]) -> Course:
    """A federation in this process, its sums without masks; the network ends trained.

    With one site it is training of that site's rows alone, or of all, by the same rounds.
    """
    course = Course(
        plan,
        learning.flat(network),
        lambda vector, counts: informed(network, vector, counts),
    )
    learners = [
        learning.NetworkLearner(network, part(rows, "train"), held=part(rows, "calibrate"))
        for rows in sites
    ]
    outgoing = [Outgoing() for _ in sites]
    for number in range(1, len(plan.stages) + 1):
        ask = course.ask(number, max(3, len(sites)))
        values, weights = np.zeros(ask.values), np.zeros(ask.weights, np.int64)
        own = ask.recipe.noise * ask.recipe.norm / math.sqrt(usual_threshold(len(sites)))
        for learner, way in zip(learners, outgoing, strict=True):
            said = learner.answer(ask.recipe, ask.material, number)
            said = way.prepare(ask.recipe, ask.max_weight, ask.material, said)
            way.done()
            values += said.values + (own * normal(ask.values) if own else 0.0)
            weights += said.weights
        course.learn(ask, Result(values, weights, ()))
    learning.fill(network, course.model)
    return course


def federate(folder: Path, sites: list[str], options: Sequence[str]) -> None:
    """Server and sites as processes; returns when all have ended well, the model in `hub`.

    Args:
        folder: Each site's rows lie in a folder of its name, the start in `START`.
        sites: Their names.
        options: Of `vitalstream federate serve`.
    """
    keys = folder / "certificates"
    if not (keys / "roster.json").exists():
        certificates.make(keys, sites)
    base = [sys.executable, "-m", "app.cli", "federate"]
    serve = ["serve", "--port", "0", *options]
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
    mean = float(np.mean([value for name, value in said.items() if name != "gate"]))
    each = "  ".join(f"{name} {value:.4f}" for name, value in said.items())
    return f"{what:32s} mean {mean:.4f}  {each}"
