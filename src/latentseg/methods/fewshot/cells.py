"""A scan as cells: what every part of a body looks like, and where in the scan it lies.

Slices about 5 mm apart are described by the frozen matching features on the grid of the latents, 32 x 32. A
cell is then some 10 x 10 x 5 mm of the body. Nothing here depends on a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.body_place import heights_mm

STEP_MM = 5.0  # distance of the slices that are described
AIR = -0.8  # mean grey value of a cell, in [-1, 1], below which it holds nothing of the body


@dataclass(frozen=True, eq=False)
class ScanCells:
    """The cells of one scan that are not air.

    Attributes:
        features: ``(N, D)``, unit vectors, slice by slice and row by row.
        places_mm: ``(N, 3)``, their centers: along the body from the first slice, down and right from the
            middle of the slice.
        body: ``(S, h, w)`` bool, which cells of the described slices these are.
        height_mm: ``(S,)``, of the described slices in the body; NaN where it is not clear.
    """

    features: Tensor
    places_mm: Tensor
    body: Tensor
    height_mm: Tensor

    @classmethod
    def of(cls, features: Tensor, images: Tensor, *, along_mm: Tensor, side_mm: float) -> ScanCells:
        """The cells of some slices.

        Args:
            features: ``(S, D, h, w)``, unit vectors.
            images: ``(S, 1, H, W)`` in [-1, 1].
            along_mm: ``(S,)``, where the slices lie along the body.
            side_mm: Edge of a slice.
        """
        edge = features.shape[-1]
        body = body_cells(images, edge).to(features.device)
        where = places(along_mm, edge, side_mm).to(features.device)
        height_mm = heights_mm(images, along_mm=along_mm, side_mm=side_mm)
        return cls(features.permute(0, 2, 3, 1)[body], where[body.flatten()], body, height_mm)

    def on_grid(self, values: Tensor, *, empty: float) -> Tensor:
        """Values ``(N,)`` of the cells as ``(S, h, w)``, air with the value ``empty``."""
        out = torch.full(self.body.shape, empty, dtype=values.dtype, device=values.device)
        out[self.body] = values
        return out


def body_cells(images: Tensor, edge: int) -> Tensor:
    """Which cells ``(S, edge, edge)`` of slices ``(S, 1, H, W)`` in [-1, 1] are not air."""
    grey = torch.cat([F.adaptive_avg_pool2d(image.float(), edge) for image in images.split(8)])
    return grey[:, 0] > AIR


def described_slices(count: int, step_mm: float) -> Tensor:
    """Indices of slices about 5 mm apart."""
    return torch.arange(0, count, max(1, round(STEP_MM / step_mm)))


def places(along_mm: Tensor, edge: int, side_mm: float) -> Tensor:
    """Centers ``(S * edge * edge, 3)`` of the cells of slices at ``along_mm`` ``(S,)``."""
    across = (torch.arange(edge) - (edge - 1) / 2) * (side_mm / edge)
    grid = torch.meshgrid(along_mm.float(), across, across, indexing="ij")
    return torch.stack(grid, -1).reshape(-1, 3)


def some(indices: Tensor, most: int, *, seed: int = 0) -> Tensor:
    """At most so many of some indices, drawn evenly and always the same."""
    if len(indices) <= most:
        return indices
    drawn = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:most]
    return indices[drawn.sort().values.to(indices.device)]


def on_slices(margins: Tensor, known: Tensor, size: Sequence[int]) -> Tensor:
    """Margins ``(S', h, w)`` of the described slices on all slices and pixels, ``(S, H, W)``, linearly."""
    fine = F.interpolate(margins[:, None], size=list(size[1:]), mode="bilinear", align_corners=False)[:, 0]
    at = torch.arange(size[0])
    above = torch.searchsorted(known, at).clamp(max=len(known) - 1)
    below = (above - 1).clamp(min=0)
    share = (at - known[below]) / (known[above] - known[below]).clamp(min=1)
    return torch.lerp(fine[below], fine[above], share.clamp(0, 1)[:, None, None].to(fine))
