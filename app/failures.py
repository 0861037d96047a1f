"""What stopped a command, in one line that a person can act on, without secrets."""

from __future__ import annotations


class BadSetting(ValueError):
    """A setting that stops the start: names the setting, the value and what is allowed."""


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and line: 2 for a setting that is not allowed, 1 for what failed."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, BadSetting) or kind == "BadDatabase":
        return 2, text
    if kind == "NoSuchDevice":
        return 2, f"devices: {text}"
    if kind == "BadCheckpoint":
        return 2, f"model: {text}"
    if kind in ("KafkaConnectionError", "NoBrokersAvailable"):
        return 1, "kafka: no broker answers there; is it running, and does --kafka name it?"
    if kind in ("DatabaseGone", "NotMigrated", "TopicsDiffer", "Undelivered"):
        return 1, text
    if isinstance(error, ModuleNotFoundError):
        return 1, f"{error.name} is not installed"
    return 1, f"{kind}: {text}" if text else kind
