"""Frozen features of training samples, kept in half precision so that the backbone is run once per sample."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.tumor.features import FrozenStages

MIRRORED = 0.3  # of the batches, features and truth alike


class KeptStages:
    """Frozen stages of a fixed number of samples, computed when they are first asked for.

    Args:
        frozen: Of a backbone.
        count: Number of samples.
    """

    def __init__(self, frozen: FrozenStages, count: int) -> None:
        self.frozen = frozen
        edge = frozen.backbone.image_size
        probe = frozen(torch.zeros(1, 1, edge, edge))
        self.grid = probe[0].shape[2:]
        self.levels = [np.zeros((count, *stage.shape[1:]), np.float16) for stage in probe]
        self.filled = np.zeros(count, bool)

    def missing(self, rows: NDArray[np.integer]) -> list[int]:
        """Those of some rows that have not been computed."""
        return [int(row) for row in np.unique(rows[~self.filled[rows]])]

    def fill(self, row: int, image: NDArray[np.float32]) -> None:
        """Compute the stages of an image ``(H, W)`` in [-1, 1]."""
        for level, stage in zip(self.levels, self.frozen(torch.from_numpy(image)[None, None]), strict=True):
            level[row] = stage[0].cpu().numpy()
        self.filled[row] = True

    def __getitem__(self, rows: NDArray[np.integer]) -> list[Tensor]:
        """``[(B, C_l, h_l, w_l)]`` of rows that have been computed."""
        return [torch.from_numpy(level[rows].astype(np.float32)) for level in self.levels]
