"""The card that lies beside the weights in use: what they were measured to do, and thresholds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

SHIPPED: Final = Path(__file__).resolve().parents[1] / "models" / "weights" / "card.json"


def read(model: Path | None) -> dict[str, Any]:
    """The card beside a model, the shipped one by default; empty where there is none."""
    path = SHIPPED if model is None else model.parent / "card.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


def thresholds(model: Path | None) -> dict[str, dict[str, float]]:
    """Version to risk to the threshold that makes it positive."""
    card = read(model)
    version, found = card.get("version"), card.get("thresholds")
    return {version: found} if isinstance(version, str) and isinstance(found, dict) else {}
