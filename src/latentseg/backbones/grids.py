"""Feature maps of several sizes on one grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def on_grid(maps: Tensor, edge: int) -> Tensor:
    """Maps ``(N, C, h, w)`` on a grid of ``edge`` cells: finer ones pooled, coarser ones interpolated."""
    if maps.shape[-1] > edge:
        return F.adaptive_avg_pool2d(maps, edge)
    return F.interpolate(maps, size=(edge, edge), mode="bilinear", align_corners=False)
