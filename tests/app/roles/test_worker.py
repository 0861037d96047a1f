"""The worker as a role."""

import pytest

from app.lifecycle import Deadline
from app.roles.worker import Worker
from app.settings import BadSetting, Settings


def test_a_worker_without_a_cluster_is_a_bad_setting() -> None:
    """The line names the setting."""
    with pytest.raises(BadSetting, match="kafka"):
        Worker(Settings(kafka=None))


async def test_a_worker_that_never_started_drains_and_says_so() -> None:
    """Draining after a failed start does nothing; before the start it is not ready."""
    worker = Worker(Settings(kafka="127.0.0.1:1"))
    assert not all(part.ok for part in worker.health().values())
    await worker.drain(Deadline(1.0))
    with pytest.raises(RuntimeError, match="not started"):
        await worker.wait()
