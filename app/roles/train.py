"""`vitalstream train`: from the recorded sets to weights and card."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.roles.ranks import torchrun
from app.settings import BadSetting, Settings
from models.parallel import team
from models.parallel.shared import fitter_on
from models.predictor import NoSuchDevice
from models.training import run
from models.training.fit import Fitter
from models.training.split import FOLDS

log = structlog.get_logger(__name__)

_QUICK_STAYS = 500
_QUICK_EPOCHS = 2
_QUICK_FOLDS = 2


def train(
    settings: Settings,
    out: Path | None = None,
    quick: bool = False,
    sets: Sequence[str] | None = None,
    epochs: int = 4,
    limit: int | None = None,
    seed: int = 7,
    ranks: int | None = None,
) -> None:
    """Train; a run that was stopped goes on from its last epoch when started again.

    Args:
        settings: `data` is the folder of the recorded sets; `devices` train the networks, a process
            each where there are several; `threads` grow the trees.
        out: Where weights and card go; default: `data_dir/model`.
        quick: A few hundred stays, two epochs and two folds.
        sets: Names of sets; default: all that train.
        epochs: Passes over the rows.
        limit: About how many stays of each set.
        seed: Of everything random.
        ranks: Local processes that train together; default: one a device, two with
            `spread_experts`. Where `torchrun` has started this one they are there already.

    Raises:
        BadSetting: The data is not named or not there, a GPU is not there, or experts have no ranks
            to lie on.
    """
    if settings.data is None:
        raise BadSetting("data: None is not allowed: the folder of the recorded sets")
    data, where = settings.data, out or settings.data_dir / "model"
    folds = FOLDS
    if quick:
        epochs, folds, limit = _QUICK_EPOCHS, _QUICK_FOLDS, limit or _QUICK_STAYS
    devices = [name.strip() for name in settings.devices.split(",")]
    if settings.spread_experts and any(name != "cpu" for name in devices):
        raise BadSetting(f"devices: {settings.devices!a} is not allowed: experts spread on cpu")

    def trained(fitted: Fitter) -> None:
        try:
            card = run.train(
                data,
                where,
                sets=sets,
                epochs=epochs,
                folds=folds,
                limit=limit,
                seed=seed,
                fitted=fitted,
                threads=settings.threads,
            )
        except ValueError as error:
            raise BadSetting(f"data: {data}: {error}") from error
        log.info("trained", version=card["version"], out=str(where))

    try:
        if team.launched():
            with team.joined_team(devices, spread=settings.spread_experts) as crew:
                if crew.leads:
                    trained(crew.fit)
                    crew.dismiss()
                else:
                    crew.follow()
            return
        for number in range(len(devices)):
            team.place_of(devices, number)
    except team.Alone as error:
        raise BadSetting(f"ranks: 1 is not allowed: {error}") from error
    except NoSuchDevice as error:
        raise BadSetting(f"devices: {error}") from error
    count = ranks or (2 if settings.spread_experts else len(devices))
    if settings.spread_experts and count < 2:
        raise BadSetting(f"ranks: '{count}' is not allowed: two or more spread experts")
    if count == 1:
        trained(fitter_on(devices[0]))
        return
    try:
        run.present(data, sets)
    except ValueError as error:
        raise BadSetting(f"data: {data}: {error}") from error
    torchrun(count, "app.cli", sys.argv[1:])
