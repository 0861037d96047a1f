"""`vitalstream evaluate`: measure weights on patients they have not seen, and write their card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from app.settings import BadSetting, Settings
from app.ward import policy
from models.checkpoint import BadCheckpoint
from models.evaluation import run
from models.evaluation.alarm_policy import Policy
from models.evaluation.card import BadCard

log = structlog.get_logger(__name__)

_HOUR_MS: Final = 60 * policy.MINUTE_MS


def shipped_policy(kind: str = "sepsis") -> Policy:
    """The delays of the ward's alert of a kind."""
    found = policy.KINDS[kind]
    return Policy(
        version=policy.VERSION,
        persist_h=found.persist_ms / _HOUR_MS,
        hold_h=found.hold_ms / _HOUR_MS,
        refractory_h=found.refractory_ms / _HOUR_MS,
        fresh=found.fresh,
        fresh_least=found.fresh_least,
    )


def evaluate(
    settings: Settings,
    out: Path | None = None,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    predictions: Path | None = None,
) -> None:
    """Measure, and write weights, card and plots.

    Args:
        settings: `data` is the folder of the recorded sets, `model` the weights, which predict on
            `threads`.
        out: The folder to write to; default: `data_dir/evaluation`.
        sets: Names of sets; default: all that train.
        limit: About how many stays of each set.
        predictions: Out-of-fold predictions to judge in place of the test part's.

    Raises:
        BadSetting: The data or the predictions are not named, not there or not usable.
        BadCheckpoint: The weights cannot be used.
        BadCard: The card beside the weights cannot be completed.
    """
    if settings.data is None:
        raise BadSetting("data: None is not allowed: the folder of the recorded sets")
    if predictions is not None and not predictions.is_file():
        raise BadSetting(f"predictions: '{predictions}' is not allowed: no such file")
    where = out or settings.data_dir / "evaluation"
    if where.is_file():
        raise BadSetting(f"out: '{where}' is not allowed: a folder, not a file")
    cache = settings.data_dir / "evaluate"
    try:
        figures = run.evaluate(
            settings.data,
            settings.model,
            cache,
            shipped_policy(),
            sets=sets,
            limit=limit,
            predictions=predictions,
            threads=settings.threads,
        )
        card, plots = run.write(figures, settings.model, where)
    except (BadCheckpoint, BadCard):
        raise
    except ValueError as error:
        raise BadSetting(f"data: {settings.data}: {error}") from error
    log.info("measured", version=card["version"], out=str(where), plots=len(plots))
