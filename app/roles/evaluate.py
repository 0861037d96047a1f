"""`vitalstream evaluate`: measure weights on the test part of the recorded sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.settings import BadSetting, Settings
from models.checkpoint import BadCheckpoint
from models.training import run

log = structlog.get_logger(__name__)


def evaluate(
    settings: Settings,
    out: Path | None = None,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
) -> None:
    """Measure and write the figures as JSON.

    Args:
        settings: `data` is the folder of the recorded sets, `model` the weights.
        out: The file to write; default: `data_dir/evaluation.json`.
        sets: Names of sets; default: all that train.
        limit: About how many stays of each set.

    Raises:
        BadSetting: The data is not named, or is not there.
        BadCheckpoint: The weights cannot be used.
    """
    if settings.data is None:
        raise BadSetting("data: None is not allowed: the folder of the recorded sets")
    where = out or settings.data_dir / "evaluation.json"
    cache = settings.data_dir / "evaluate"
    try:
        measured = run.evaluate(settings.data, settings.model, cache, sets=sets, limit=limit)
    except BadCheckpoint:
        raise
    except ValueError as error:
        raise BadSetting(f"data: {settings.data}: {error}") from error
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps(measured, indent=1) + "\n")
    log.info("measured", out=str(where))
