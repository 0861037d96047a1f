"""Settings of every role: options win over the environment, which wins over a TOML file.

The only module that reads the environment. One name per option.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.failures import BadSetting

__all__ = ["BadSetting", "Settings", "load", "masked"]


class Settings(BaseSettings):
    """All settings; each role reads those it needs."""

    model_config = SettingsConfigDict(env_prefix="VITALSTREAM_", frozen=True, extra="forbid")

    kafka: str | None = Field(None, description="Kafka bootstrap servers, HOST:PORT[,…].")
    database: str | None = Field(
        None,
        description="postgresql://… or sqlite:///…; default: vitalstream.db in --data-dir.",
    )
    token: str | None = Field(None, min_length=8, description="Bearer token of the REST API.")
    host: str = Field("127.0.0.1", description="Address the process listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0 takes a free one.")
    ops_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of /metrics and /health of a worker or ward; 0: a free one.",
    )
    data_dir: Path = Field(Path("data"), description="Where the default database lies.")
    data: Path | None = Field(None, description="Folder of the recorded sets.")
    model: Path | None = Field(None, description="Weights; default: those shipped.")
    kernels: Path | None = Field(
        None, description="Kernel library that make -C cuda built; default: references in torch."
    )
    devices: str = Field("cpu", description="Devices, comma-separated: cpu,cpu or cuda:0,cuda:1.")
    threads: int = Field(1, ge=1, le=256, description="Threads of a CPU device's network.")
    spread_experts: bool = Field(
        False,
        description="Spread the specialists over the devices, or the ranks that train, "
        "instead of a copy on each.",
    )
    group: str = Field("vitalstream", min_length=1, description="Prefix of the consumer groups.")
    partitions: int = Field(12, ge=1, le=10_000, description="Partitions of new topics.")
    replication: int = Field(1, ge=1, le=10, description="Replication factor of new topics.")
    emit: Literal["latest", "each"] = Field(
        "latest", description="Newest window, or every message."
    )
    min_rescore_ms: int = Field(0, ge=0, description="Least time between a bed's predictions.")
    stale_after_ms: int = Field(30_000, ge=1_000, description="Silence after which a bed is stale.")
    max_skew_ms: int = Field(
        60_000, ge=0, description="How far ahead of the broker's clock an event time may be."
    )
    max_lag: int = Field(
        50_000, ge=1, description="Messages behind the end that make a worker unready."
    )
    stuck_after_s: float = Field(
        30.0, gt=0, description="A partition that does not move is stuck then."
    )
    snapshot_every_s: float = Field(
        120.0, gt=0, description="Time between a bed's window snapshots."
    )
    session_timeout_ms: int = Field(30_000, ge=1_000, description="Kafka session timeout.")
    queue_limit: int = Field(100_000, ge=1, description="Observations a worker holds unpredicted.")
    max_beds: int = Field(
        100_000,
        ge=1,
        description="Beds that a worker, ward or api knows at most; others are refused.",
    )
    bed_idle_h: float = Field(
        96.0, ge=73, description="Silence after which a bed is forgotten; a window holds 72 h."
    )
    max_batch: int = Field(
        0, ge=0, description="Cap of a batch; 0: from the curve measured at start."
    )
    max_wait_ms: float = Field(
        5.0, ge=0, description="Deadline of a batch while its device is busy."
    )
    retention_days: int = Field(30, ge=1, description="Days of history kept in the database.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Log level."
    )
    log_format: Literal["json", "console"] = Field("console", description="Form of log lines.")
    beds: int = Field(24, ge=1, le=100_000, description="Simulated beds.")
    seed: int = Field(0, ge=0, description="Seed of the simulator: the same, the same ward.")
    rate: float = Field(1.0, ge=0.001, le=1_000, description="Messages a second from each bed.")
    history_h: float = Field(
        24.0, ge=0, le=168, description="Hours the simulated monitors have behind them."
    )
    artefacts: float = Field(
        1.0, ge=0, le=10, description="Loose leads, repeats, silences: 0 none, 1 as usual."
    )
    simulator: bool = Field(True, description="Whether `run` simulates monitors.")

    @field_validator("kafka")
    @classmethod
    def _servers(cls, value: str | None) -> str | None:
        for part in (value or "").split(",") if value is not None else ():
            host, _, port = part.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError("HOST:PORT, comma-separated")
        return value

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: str) -> str:
        if not re.fullmatch(r"(cpu|cuda(:\d+)?)(,(cpu|cuda(:\d+)?))*", value):
            raise ValueError("cpu, cuda or cuda:N, comma-separated")
        return value

    @field_validator("database")
    @classmethod
    def _database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(sqlite|postgres(ql)?)(\+\w+)?://", value):
            raise ValueError("sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
        return value

    @field_validator("token")
    @classmethod
    def _token(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", value):
            raise ValueError("letters, digits and ._~+/=- (RFC 6750)")
        return value

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def database_url(self) -> str:
        """The database in use."""
        return self.database or f"sqlite:///{self.data_dir / 'vitalstream.db'}"


def ranks_on_loopback() -> None:
    """Let this process's ranks find each other on loopback, where the environment names nothing."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def masked(url: str) -> str:
    """A database URL without its password and options."""
    return re.sub(r"://([^@/:]*):.*@", r"://\1:***@", url).partition("?")[0]


def load(config: Path | None = None, **options: Any) -> Settings:
    """Read settings; options that are None are not given. Raises BadSetting with one line."""
    given = {name: value for name, value in options.items() if value is not None}
    file: dict[str, Any] = {}
    if config is None and (named := os.environ.get("VITALSTREAM_CONFIG")):
        config = Path(named)
    if config is not None:
        try:
            file = tomllib.loads(config.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            what = getattr(error, "strerror", None) or str(error)
            raise BadSetting(f"config: {str(config)!r} is not allowed: {what}") from error
    beneath = {
        name: value
        for name, value in file.items()
        if f"VITALSTREAM_{name.upper()}" not in os.environ
    }
    try:
        return Settings(**{**beneath, **given})
    except ValidationError as error:
        raise BadSetting(_line(error)) from None


def _line(error: ValidationError) -> str:
    """The first thing that is wrong: setting, value, what is allowed; never a secret."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if name not in Settings.model_fields:
        return f"{name}: there is no such setting; see `vitalstream run --help`"
    shown = "the value" if name == "token" else ascii(first["input"])
    if name == "database":
        shown = ascii(masked(str(first["input"])))
    what = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name}: {shown} is not allowed: {what}"
