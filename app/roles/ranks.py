"""Ranks of this machine, started by `torchrun` over loopback.

On several machines a person starts `torchrun` on each.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from app.settings import ranks_on_loopback


def torchrun(count: int, module: str, arguments: Sequence[str]) -> None:
    """Run a module on so many ranks until all have ended. Raises SystemExit(1) if one failed."""
    ranks_on_loopback()
    command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", str(count), "-m", module]
    if subprocess.run([*command, *arguments], check=False).returncode:
        raise SystemExit(1)
