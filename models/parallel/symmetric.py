"""Memory that NCCL's symmetric kernels can use, with ordinary memory to fall back on.

After torch's `register_mem_pool(pool, symm=True)`: a pool whose memory lies at the same offsets on
all ranks of one NVLink domain, so that kernels read and write their neighbours' memory directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import torch
import torch.distributed as dist

from models.parallel.transport import Choice

log = structlog.get_logger(__name__)


class Pool:
    """Memory that NCCL's symmetric kernels can use, or ordinary memory, and which and why.

    all_gather, all_reduce (sum, average) and reduce_scatter have such kernels; all_to_all, send and
    receive go their ordinary way with this memory too.

    1. `with pool.filling():` allocate the buffers, in the same order with the same sizes on all
       ranks;
    2. `pool.register()`, a collective;
    3. `pool.close()` when the buffers are no longer used, before the group is destroyed.

    Attributes:
        symmetric: Whether the memory is registered.
        reason: Why not; empty where it is.
    """

    def __init__(
        self, choice: Choice, device: torch.device | str, group: dist.ProcessGroup | None = None
    ) -> None:
        self.symmetric = False
        self.reason = "not registered yet"
        self._group = group
        self._device = torch.device(device)
        self._backend: Any = None
        self._pool: Any = None
        if choice.backend != "nccl-symmetric":
            self.reason = choice.reasons[-1]
            return
        try:
            whole = group or dist.distributed_c10d._get_default_group()
            self._backend = whole._get_backend(self._device)
            self._pool = torch.cuda.MemPool(self._backend.mem_allocator)
        except (RuntimeError, ValueError) as error:
            self._fall_back(f"no pool of NCCL's memory: {first_line(error)}")

    @contextmanager
    def filling(self) -> Iterator[None]:
        """What is allocated inside lies in the pool."""
        if self._pool is None:
            yield
            return
        with torch.cuda.use_mem_pool(self._pool, device=self._device):
            yield

    def register(self) -> bool:
        """Register what was allocated; where one rank cannot, none does. A collective.

        Returns:
            Whether the memory is symmetric now.
        """
        error = self.reason if self._backend is None else self._try_register()
        on_device = dist.get_backend(self._group) == "nccl"
        failed = torch.tensor(
            [int(error is not None)], device=self._device if on_device else torch.device("cpu")
        )
        dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=self._group)
        if not int(failed.item()):
            self.symmetric, self.reason = True, ""
            return True
        if error is None:  # this rank could, another could not
            self._backend.deregister_mem_pool(self._pool)
        self._fall_back(error or "another rank cannot register its memory")
        return False

    def _try_register(self) -> str | None:
        try:
            self._backend.register_mem_pool(self._pool, symm=True)
        except (RuntimeError, TypeError) as error:
            return f"NCCL does not register the pool: {first_line(error)}"
        return None

    def _fall_back(self, reason: str) -> None:
        self.symmetric, self.reason, self._backend = False, reason, None
        log.info("ordinary memory instead of symmetric", reason=reason)

    def close(self) -> None:
        """Give the registration back; may be called twice."""
        if self.symmetric:
            self.symmetric, self.reason = False, "closed"
            self._backend.deregister_mem_pool(self._pool)
        self._backend = self._pool = None


def first_line(error: Exception) -> str:
    """What an error of torch says, without its stack."""
    return str(error).partition("\n")[0]
