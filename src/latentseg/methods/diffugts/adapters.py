"""Residual adapters: a small trained change of frozen features (DiffuGTS; as in CLIP-Adapter and MVFA-AD).

At every position ``F' = a T(F) + (1 - a) F``, where ``T`` is two linear layers (known secondhand).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualAdapter(nn.Module):
    """Adapts features ``(B, C, ...)`` of one stage.

    Args:
        channels: ``C``.
        ratio: ``a``, the constant weight of the learned part. The paper's value is not known; 0.1 is the
            value of a reimplementation by others.
    """

    def __init__(self, channels: int, *, ratio: float = 0.1) -> None:
        super().__init__()
        self.ratio = ratio
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)  # stages differ in scale by orders
        self.bottleneck = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, features: Tensor) -> Tensor:
        """``F'``, of the shape of the features."""
        last = self.norm(features.movedim(1, -1))
        adapted = self.ratio * self.bottleneck(last) + (1 - self.ratio) * last
        return cast("Tensor", adapted).movedim(-1, 1)


class Adapters(nn.ModuleList):
    """One adapter per stage."""

    def __init__(self, channels: Sequence[int], *, ratio: float = 0.1) -> None:
        super().__init__(ResidualAdapter(width, ratio=ratio) for width in channels)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Adapted stages, in the order of the stages."""
        return [adapter(stage) for adapter, stage in zip(self, stages, strict=True)]


def stages_of(
    features: Sequence[Tensor], chosen: Sequence[int], *, grid: Sequence[int] | None = None
) -> list[Tensor]:
    """Pick stages of a backbone's features; those finer than ``grid`` are pooled to it.

    Args:
        features: ``(B, C_l, ...)``, finest first.
        chosen: Their indices.
        grid: Finest grid that attention is computed on.
    """
    picked = [features[index] for index in chosen]
    if grid is None:
        return picked
    return [pooled(stage, grid) if stage.shape[2] > grid[0] else stage for stage in picked]


def pooled(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Means of maps ``(B, C, ...)`` over the cells of a coarser grid."""
    if len(grid) == 2:
        return F.adaptive_avg_pool2d(maps, (grid[0], grid[1]))
    return F.adaptive_avg_pool3d(maps, (grid[0], grid[1], grid[2]))
