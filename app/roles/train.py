"""`vitalstream train`: from the recorded sets to weights and card."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.roles.ranks import torchrun
from app.settings import BadSetting, Settings
from models.parallel import team
from models.training import run
from models.training.fit import Fitter, fit
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
        settings: `data` is the folder of the recorded sets.
        out: Where weights and card go; default: `data_dir/model`.
        quick: A few hundred stays, two epochs and two folds.
        sets: Names of sets; default: all that train.
        epochs: Passes over the rows.
        limit: About how many stays of each set.
        seed: Of everything random.
        ranks: Local processes that `spread_experts` starts; default 2. Where `torchrun` has
            started this one they are there already.

    Raises:
        BadSetting: The data is not named or not there, or experts have no ranks to lie on.
    """
    if settings.data is None:
        raise BadSetting("data: None is not allowed: the folder of the recorded sets")
    where = out or settings.data_dir / "model"
    folds = FOLDS
    if quick:
        epochs, folds, limit = _QUICK_EPOCHS, _QUICK_FOLDS, limit or _QUICK_STAYS

    def trained(fitted: Fitter) -> None:
        assert settings.data is not None
        try:
            card = run.train(
                settings.data,
                where,
                sets=sets,
                epochs=epochs,
                folds=folds,
                limit=limit,
                seed=seed,
                fitted=fitted,
            )
        except ValueError as error:
            raise BadSetting(f"data: {settings.data}: {error}") from error
        log.info("trained", version=card["version"], out=str(where))

    if not settings.spread_experts:
        if ranks is not None:
            raise BadSetting(f"ranks: '{ranks}' is not allowed: it goes with --spread-experts")
        if team.launched():
            raise BadSetting("spread_experts: False is not allowed on a rank of torchrun")
        trained(fit)
    elif team.launched():
        try:
            with team.joined_team() as crew:
                if crew.leads:
                    trained(crew.fit)
                    crew.dismiss()
                else:
                    crew.follow()
        except team.Alone as error:
            raise BadSetting(f"spread_experts: True is not allowed: {error}") from error
    else:
        try:
            run.present(settings.data, sets)
        except ValueError as error:
            raise BadSetting(f"data: {settings.data}: {error}") from error
        torchrun(ranks or 2, "app.cli", sys.argv[1:])
