"""A worker whose specialists are spread over its devices."""

from __future__ import annotations

import pytest

from app.lifecycle import Deadline
from app.roles.worker import Worker
from app.settings import BadSetting, Settings


def test_one_device_is_too_few_to_spread_experts() -> None:
    """The line names the setting."""
    with pytest.raises(BadSetting, match="devices: 'cpu'"):
        Worker(Settings(kafka="127.0.0.1:1", spread_experts=True))


async def test_spread_devices_are_one_model_that_ends_with_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that finds no broker has loaded its model; draining ends the other processes."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    worker = Worker(Settings(kafka="127.0.0.1:1", devices="cpu,cpu", spread_experts=True))
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        await worker.start()
    (model,) = worker._opened
    hosts = list(model._hosts)  # type: ignore[attr-defined]
    assert len(hosts) == 1 and hosts[0].poll() is None

    await worker.drain(Deadline(10.0))

    assert hosts[0].poll() == 0
