"""The verifier of `load_tests/chaos.py`, as a fixture."""

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest


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
        chosen = {} if shipped else {"command": tiny}
        one = chaos.Chaos(
            stream.servers,
            tmp_path,
            beds=12,
            rate=300,
            partitions=stream.partitions,
            group=stream.group,
            session_timeout_ms=3_000,
            restart_broker=stream.server.restart,
            **chosen,
            **options,
        )
        verdict = await asyncio.to_thread(one.run, scenario)
        assert verdict.holds, f"{verdict}\n{_logs(tmp_path)}"

    return run


def _logs(folder: Path) -> str:
    return "\n".join(
        f"--- {path.name}\n{path.read_text()[-4_000:]}" for path in sorted(folder.glob("*.log"))
    )
