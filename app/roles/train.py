"""`vitalstream train`: from the recorded sets to weights and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from app.settings import BadSetting, Settings
from models.training import run
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

    Raises:
        BadSetting: The data is not named, or is not there.
    """
    if settings.data is None:
        raise BadSetting("data: None is not allowed: the folder of the recorded sets")
    where = out or settings.data_dir / "model"
    folds = FOLDS
    if quick:
        epochs, folds, limit = _QUICK_EPOCHS, _QUICK_FOLDS, limit or _QUICK_STAYS
    try:
        card = run.train(
            settings.data, where, sets=sets, epochs=epochs, folds=folds, limit=limit, seed=seed
        )
    except ValueError as error:
        raise BadSetting(f"data: {settings.data}: {error}") from error
    log.info("trained", version=card["version"], out=str(where))
