"""`vitalstream check`: what is configured, what can be reached, what was chosen."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from collections.abc import Coroutine, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from app.api.application import PAGE
from app.settings import Settings, masked

ANSWER_S: Final = 8.0
LOAD_S: Final = 60.0
"""PyTorch alone takes seconds on a busy machine."""


class Finding(NamedTuple):
    """One line: `ok` is None where nothing is wrong and nothing was asked."""

    what: str
    ok: bool | None
    detail: str


async def check(settings: Settings, console: Console | None = None) -> bool:
    """Print a table of findings; whether nothing that is configured is missing."""
    findings = await examine(settings)
    table = Table(title="vitalstream: configured, reachable, chosen", title_justify="left")
    for column in ("part", "state", "detail"):
        table.add_column(column, overflow="fold")
    for what, ok, detail in findings:
        state = {True: "[green]ok[/]", False: "[red]missing[/]", None: "[dim]–[/]"}[ok]
        table.add_row(what, state, detail)
    (console or Console()).print(table)
    return all(ok is not False for _, ok, _ in findings)


async def examine(settings: Settings) -> Sequence[Finding]:
    """Look at every part."""
    found = [*_configured(settings)]
    # Loading PyTorch takes the whole machine: not while an answer is waited for.
    found += await asyncio.gather(
        _looked("kafka", _kafka(settings), ANSWER_S),
        _looked("database", _database(settings), ANSWER_S),
    )
    found.append(await _looked("model", _model(settings), LOAD_S))
    found.append(await _looked("kernels", _kernels(settings), LOAD_S))
    page = PAGE / "index.html"
    found.append(
        Finding("page", page.is_file(), str(page) if page.is_file() else "not built: make web")
    )
    java = shutil.which("java")
    found.append(
        Finding("java", None, java or "none: only tests and benchmarks on a real Kafka need it")
    )
    return found


async def _looked(name: str, look: Coroutine[Any, Any, Finding], limit_s: float) -> Finding:
    try:
        async with asyncio.timeout(limit_s):
            return await look
    except Exception as error:
        # Whatever a part raises is a finding; its text may hold a password, its name does not.
        return Finding(name, False, _why(error))


def _configured(settings: Settings) -> Sequence[Finding]:
    token = "set (not shown)" if settings.token else "none: `run` makes a random one"
    if settings.token is None and not settings.loopback:
        return [
            Finding("token", False, f"host {settings.host} is open to others: a token is needed")
        ]
    return [
        Finding("listen", None, f"{settings.host}:{settings.port}"),
        Finding("token", None, token),
        Finding("group", None, settings.group),
    ]


async def _kafka(settings: Settings) -> Finding:
    if settings.kafka is None:
        found = importlib.util.find_spec("confluent_kafka") is not None
        return Finding(
            "kafka", found, "none named: `run` embeds one (in memory, for trying out only)"
        )
    from streaming.producer import Admin
    from streaming.topics import TOPICS

    async with Admin(settings.kafka, timeout_s=5) as admin:
        counts = {t: n for t, n in (await admin.partitions()).items() if t in TOPICS}
    if absent := sorted(set(TOPICS) - set(counts)):
        return Finding(
            "kafka",
            False,
            f"{settings.kafka} answers, without {', '.join(absent)}: vitalstream topics",
        )
    if len(set(counts.values())) > 1:
        return Finding("kafka", False, f"{settings.kafka}: partition counts differ: {counts}")
    return Finding(
        "kafka", True, f"{settings.kafka}, {len(counts)} topics of {counts[min(counts)]} partitions"
    )


async def _database(settings: Settings) -> Finding:
    from app.ward.store import Store

    shown = masked(settings.database_url)
    if settings.database is None and not (settings.data_dir / "vitalstream.db").exists():
        return Finding("database", None, f"{shown}: made at the first start")
    store = Store(settings.database_url)
    try:
        await asyncio.to_thread(store.ping)
    finally:
        store.close()
    return Finding("database", True, shown)


async def _model(settings: Settings) -> Finding:
    if settings.model is not None and not settings.model.is_file():
        return Finding("model", False, f"{settings.model}: no such file")

    def load() -> str:
        from models import predictor

        names = list(dict.fromkeys(settings.devices.split(",")))
        models = [predictor.load(settings.model, name, settings.threads) for name in names]
        first = models[0]
        return (
            f"{first.name} {first.version} on "
            f"{', '.join(f'{m.device} ({m.engine} engine)' for m in models)}"
        )

    return Finding("model", True, await asyncio.to_thread(load))


async def _kernels(settings: Settings) -> Finding:
    """Of training and volumes over ranks; serving has an engine of its own."""
    if settings.kernels is not None and not settings.kernels.is_file():
        return Finding("kernels", False, f"{settings.kernels}: no such file: make -C cuda library")

    def load() -> str:
        from models import ops

        return ops.load(settings.kernels)

    said = await asyncio.to_thread(load)
    return Finding("kernels", True if settings.kernels else None, said)


def _why(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if kind in ("NotMigrated", "DatabaseGone", "BadDatabase", "BadCheckpoint", "FileNotFoundError"):
        return str(error)
    if kind == "KafkaConnectionError":
        return "no broker answers there"
    return kind
