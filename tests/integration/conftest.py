"""The verifier of `load_tests/chaos.py`, and a PostgreSQL, as fixtures."""

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "postgres_server", Path(__file__).parents[1] / "app" / "postgres_server.py"
)
assert _SPEC is not None and _SPEC.loader is not None
postgres_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(postgres_server)


@pytest.fixture(scope="session")
def postgres(require: Any) -> Iterator[Any]:
    """A PostgreSQL that the tests may stop."""
    reason = postgres_server.missing()
    require("PostgreSQL", not reason, reason)
    server = postgres_server.PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def chaos() -> Any:
    """The module `load_tests/chaos.py`; nothing there is a package."""
    path = Path(__file__).resolve().parents[2] / "load_tests" / "chaos.py"
    spec = importlib.util.spec_from_file_location("chaos", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def survives(chaos: Any, stream: Any, tmp_path: Path) -> Callable[..., Awaitable[None]]:
    """Run a scenario and assert that every promise was kept; the workers' logs are in the failure.

    Workers have the tiny model, which starts at once, unless `shipped` is true.
    """

    async def run(scenario: str, shipped: bool = False, **options: Any) -> None:
        tiny = (sys.executable, "load_tests/tiny_worker.py")
        chosen = {"beds": 12, "rate": 300} | ({} if shipped else {"command": tiny})
        one = chaos.Chaos(
            stream.servers,
            tmp_path,
            partitions=stream.partitions,
            group=stream.group,
            session_timeout_ms=3_000,
            restart_broker=stream.server.restart,
            **(chosen | options),
        )
        verdict = await asyncio.to_thread(one.run, scenario)
        assert verdict.holds, f"{verdict}\n{_logs(tmp_path)}"

    return run


def _logs(folder: Path) -> str:
    return "\n".join(
        f"--- {path.name}\n{path.read_text()[-4_000:]}" for path in sorted(folder.glob("*.log"))
    )
