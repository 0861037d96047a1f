"""Commands and their options: one for each setting, worked out when a command is called.

What takes long to import (the settings, a role) is left until then: `--help` answers at once.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand

from app.failures import BadSetting

if TYPE_CHECKING:
    from typer._click import Command

    from app.settings import Settings

cli = typer.Typer(
    name="vitalstream",
    help="Real-time ICU vital-signs inference: monitors in, predictions out, over Kafka.\n\n"
    "Research software: never the primary alarm, no diagnosis.",
    epilog="Every option is also an environment variable (VITALSTREAM_KAFKA) "
    "and a key of a TOML file (--config).",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

_PANELS: Final = {
    "Connections": ("kafka", "database", "token", "host", "port", "ops_port"),
    "Files": ("data_dir", "data", "model", "kernels"),
    "Model and devices": ("devices", "threads", "spread_experts", "max_batch", "max_wait_ms"),
    "Stream": (
        *("group", "partitions", "replication", "emit", "min_rescore_ms", "stale_after_ms"),
        *("max_skew_ms", "max_lag", "stuck_after_s", "snapshot_every_s", "session_timeout_ms"),
        *("queue_limit", "max_beds", "bed_idle_h"),
    ),
    "Simulator": ("simulator", "beds", "seed", "rate", "history_h", "artefacts"),
    "Ward": ("retention_days",),
    "Logs": ("log_level", "log_format"),
}
_PANEL_OF: Final = {name: panel for panel, names in _PANELS.items() for name in names}
_LOGS: Final = ("log_level", "log_format")


def command(name: str, *names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of the settings, and of options of its own, a command with these options."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def make() -> Command:
            alone = typer.Typer(rich_markup_mode="rich", add_completion=False)
            alone.command(name)(_with_options(function, (*names, *_LOGS)))
            return typer.main.get_command(alone)

        _later(name, inspect.getdoc(function) or "", make)
        return function

    return decorate


def group(name: str, text: str, module: str) -> None:
    """Make the `commands` of a module the subcommands of one command."""
    _later(name, text, lambda: typer.main.get_group(import_module(module).commands))


def number(name: str, text: str, allowed: str) -> float:
    """An option's number. Raises BadSetting, which says what is allowed."""
    try:
        return float(text)
    except ValueError:
        raise BadSetting(f"{name}: {text!a} is not allowed: {allowed}") from None


def whole(name: str, text: str, least: int) -> int:
    """An option's whole number. Raises BadSetting below `least`."""
    if not (text.isascii() and text.isdigit() and int(text[:18]) >= least):
        raise BadSetting(f"{name}: {text!a} is not allowed: a whole number, at least {least}")
    return int(text[:18])


def listed(text: str | None) -> list[str] | None:
    """Names between commas; None where none is given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _later(name: str, text: str, make: Callable[[], Command]) -> None:
    """A command that is listed by its text and made when it is called."""

    class Later(TyperCommand):
        def make_context(self, *given: Any, **named: Any) -> Any:
            return make().make_context(*given, **named)

    @cli.command(name, cls=Later, help=text)
    def listed_only() -> None:
        """Never called: the command that is made takes its place."""


def _with_options(function: Callable[..., None], names: tuple[str, ...]) -> Callable[..., None]:
    """The function with an option for each of the settings named, which become its first value."""
    hints = typing.get_type_hints(function, localns={"Settings": Any}, include_extras=True)
    own = [
        parameter.replace(annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "settings"
    ]
    options = [_option(name) for name in dict.fromkeys(names)]

    @wraps(function)
    def wrapper(**given: Any) -> None:
        from app import logs
        from app.settings import load

        chosen = {option.name: given.pop(option.name) for option in options}
        settings: Settings = load(given.pop("config"), **chosen)
        logs.configure(settings.log_level, settings.log_format)
        function(settings, **given)

    parameters = [*own, *options, _CONFIG]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _option(name: str) -> inspect.Parameter:
    """A setting as an option; its text goes to the settings as it is, which say what is allowed."""
    from app.settings import Settings

    field = Settings.model_fields[name]
    flag = name.replace("_", "-")
    default = "" if field.default is None else f" [dim]default {field.default}[/]"
    kind: Any = Annotated[
        str | None,
        typer.Option(
            f"--{flag}",
            help=f"{field.description}{default}",
            metavar=name.rpartition("_")[2].upper(),
            show_default=False,
            rich_help_panel=_PANEL_OF[name],
        ),
    ]
    if field.annotation is bool:
        kind = Annotated[
            bool | None,
            typer.Option(
                f"--{flag}/--no-{flag}",
                help=field.description,
                show_default=False,
                rich_help_panel=_PANEL_OF[name],
            ),
        ]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


_CONFIG: Final = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option("--config", help="TOML file of settings.", rich_help_panel="Files"),
    ],
)
