"""Sums over time whose bits depend on nothing but the window: the same alone, in a batch, padded.

Pairs of bins are added from the newest end, pairs of pairs after them, and so on, by element-wise
operations alone, each of which IEEE 754 rounds correctly. Bins before the first value are exact
zeros in front, so that more of them change no bit.

Axes: B windows, T bins (oldest first), K memories, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def memories(x_BTC: Tensor, decay_K: Tensor) -> Tensor:
    """Exponential memories at the newest bin: sum over bins of decay ** age * x, [B, K, C].

    Args:
        x_BTC: Values, 0 where nothing was measured.
        decay_K: What of a value is left after one bin; 1 sums.
    """
    pooled = x_BTC.unsqueeze(2)
    decay = decay_K.reshape(1, 1, -1, 1)
    if pooled.shape[1] == 1:
        return pooled[:, 0].expand(-1, len(decay_K), -1)
    while pooled.shape[1] > 1:
        if pooled.shape[1] % 2:
            pooled = torch.cat([torch.zeros_like(pooled[:, :1]), pooled], 1)
        # Two operations, not a fused one: those round differently in a kernel's tail.
        pooled = pooled[:, 1::2] + pooled[:, 0::2] * decay
        decay = decay * decay
    return pooled[:, 0]


def decays(half_lives: tuple[float, ...]) -> Tensor:
    """What of a value is left after one bin, for half-lives in bins, float32[K]."""
    return torch.tensor([0.5 ** (1.0 / bins) for bins in half_lives], dtype=torch.float32)
