"""Synthetic volumes, made by seed: bodies in air, with organs, and lesions in some.

What a split encoder is trained and measured on; they look like no patient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def phantoms(
    count: int, size: tuple[int, int, int], seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Volumes [N, 1, D, H, W] and whether each has lesions, [N]; half of them do.

    A body is an ellipsoid of about 1 in air of 0, with two organs that are darker or brighter;
    lesions are one to three small bright spheres inside. Noise is everywhere.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random, dtype=torch.float64)

    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))

    def ellipsoid(centre: Tensor, radii: Tensor) -> Tensor:
        away = (grid - centre.view(3, 1, 1, 1)) / radii.view(3, 1, 1, 1)
        return away.square().sum(0) < 1

    volumes, labels = [], torch.arange(count) % 2
    for label in labels.tolist():
        volume = torch.zeros(size, dtype=torch.float64)
        volume[ellipsoid(draw(3, low=-0.1, high=0.1), draw(3, low=0.7, high=0.9))] = 1.0
        for _ in range(2):
            organ = ellipsoid(draw(3, low=-0.4, high=0.4), draw(3, low=0.2, high=0.35))
            volume[organ] += float(draw(1, low=-0.3, high=0.3))
        for _ in range(label * int(torch.randint(1, 4, (1,), generator=random))):
            lesion = ellipsoid(draw(3, low=-0.4, high=0.4), draw(1, low=0.15, high=0.25).expand(3))
            volume[lesion] += 1.0
        volumes.append(volume + 0.1 * torch.randn(size, generator=random, dtype=torch.float64))
    return torch.stack(volumes).unsqueeze(1).to(dtype), labels.to(dtype)
