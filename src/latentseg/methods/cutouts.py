"""Cut-outs: squares of slices that are enlarged to full image size, and how results are put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CutOuts:
    """A square in each of ``N`` images.

    Attributes:
        centers: ``(N, 2)``, row and column in pixels, 0 at the image's upper left corner.
        edges: ``(N,)``, in pixels.
    """

    centers: Tensor
    edges: Tensor

    @classmethod
    def around(cls, masks: Tensor, edges: Tensor) -> Self:
        """Squares of given edges ``(N,)`` around the boxes of masks ``(N, H, W)``."""
        boxes = torch.stack([box_of(mask) for mask in masks])
        return cls((boxes[:, :2] + boxes[:, 2:]) / 2, edges)

    def of(self, images: Tensor) -> Tensor:
        """What the squares hold of images ``(N, C, H, W)``, enlarged to their size, linear.

        Beyond the border of an image is what lies at its border.
        """
        scale = self.edges[:, None] / torch.tensor(images.shape[2:])
        grid = self._grid(scale, self._middles(images.shape[2:]), images.shape)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def back(self, enlarged: Tensor) -> tuple[Tensor, Tensor]:
        """Enlarged images ``(N, C, H, W)`` at their place.

        Returns:
            ``(N, C, H, W)``, and where the squares lie, ``(N, 1, H, W)`` bool.
        """
        scale = torch.tensor(enlarged.shape[2:]) / self.edges[:, None]
        grid = self._grid(scale, -self._middles(enlarged.shape[2:]) * scale, enlarged.shape)
        inside = (grid.abs().amax(-1) <= 1)[:, None]
        return F.grid_sample(enlarged, grid, padding_mode="border", align_corners=False), inside

    def _middles(self, size: torch.Size) -> Tensor:
        """Centers ``(N, 2)`` on a scale from -1 to 1."""
        return 2 * self.centers / torch.tensor(size) - 1

    @staticmethod
    def _grid(scale: Tensor, offset: Tensor, shape: torch.Size) -> Tensor:
        """Where to read images: ``scale * x + offset``, rows and columns ``(N, 2)``."""
        theta = torch.zeros(len(scale), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = scale[:, 1], scale[:, 0]
        theta[:, 0, 2], theta[:, 1, 2] = offset[:, 1], offset[:, 0]
        return F.affine_grid(theta, list(shape), align_corners=False)


def box_of(mask: Tensor) -> Tensor:
    """First row, first column, row and column after the last of a mask ``(H, W)``; all of an empty one."""
    if not mask.any():
        return torch.tensor([0, 0, *mask.shape])
    rows, columns = (mask.amax(axis).nonzero()[:, 0] for axis in (1, 0))
    return torch.tensor([int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1])
