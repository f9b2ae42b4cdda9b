"""Distances between the surfaces of two masks, in millimeters.

The surface of a mask is made of its voxels that have a face neighbor outside the mask; outside the grid
counts as outside the mask, except along axes of a single voxel. Each distance runs from the center of a
surface voxel to the nearest surface voxel center of the other mask.

**Rule for empty masks.** Both empty: NSD is 1, HD95 and ASSD are 0. Exactly one empty: NSD is 0, HD95 and
ASSD are the diagonal of the grid in millimeters, the largest error that the scan allows. A missed structure
thus costs something, and costs the same whatever the method; dropping such cases would reward them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.metrics.overlap import paired_masks

TOLERANCE_MM = 2.0
"""Surface error that NSD forgives."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """What every surface metric is made of.

    Attributes:
        from_prediction: Distance in mm of each surface voxel of the prediction to the truth's surface.
        from_truth: Distance in mm of each surface voxel of the truth to the prediction's surface.
        diagonal_mm: Length of the grid's diagonal.
        empty: How many of the two masks are empty; the distances are then empty too.
    """

    from_prediction: NDArray[np.float64]
    from_truth: NDArray[np.float64]
    diagonal_mm: float
    empty: int = 0

    def nsd(self, tolerance_mm: float = TOLERANCE_MM) -> float:
        """Normalized surface Dice: share of both surfaces that lies within the tolerance of the other."""
        if self.empty:
            return 1.0 if self.empty == 2 else 0.0
        return float((self._all() <= tolerance_mm + 1e-9).mean())

    @property
    def hd95_mm(self) -> float:
        """The larger of the two directed 95th percentiles (linear interpolation)."""
        if self.empty:
            return 0.0 if self.empty == 2 else self.diagonal_mm
        return float(max(np.percentile(d, 95) for d in (self.from_prediction, self.from_truth)))

    @property
    def assd_mm(self) -> float:
        """Average symmetric surface distance: mean over the voxels of both surfaces."""
        if self.empty:
            return 0.0 if self.empty == 2 else self.diagonal_mm
        return float(self._all().mean())

    def _all(self) -> NDArray[np.float64]:
        return np.concatenate([self.from_prediction, self.from_truth])


def surface_distances(
    prediction: ArrayLike, truth: ArrayLike, *, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure two masks of one shape, two- or three-dimensional.

    Args:
        prediction: Nonzero is foreground.
        truth: Likewise.
        spacing_mm: Voxel spacing along each axis.

    Raises:
        GeometryError: The shapes differ.
    """
    from scipy import ndimage

    p, t = paired_masks(prediction, truth)
    diagonal_mm = float(np.linalg.norm(np.multiply(p.shape, spacing_mm)))
    nothing, empty = np.zeros(0), 2 - int(p.any()) - int(t.any())
    if empty:
        return SurfaceDistances(nothing, nothing, diagonal_mm, empty)
    (box,) = ndimage.find_objects((p | t).astype(np.uint8))
    edge_p, edge_t = (surface(mask[box], grid=p.shape) for mask in (p, t))
    to_t = ndimage.distance_transform_edt(~edge_t, sampling=tuple(spacing_mm))
    to_p = ndimage.distance_transform_edt(~edge_p, sampling=tuple(spacing_mm))
    return SurfaceDistances(to_t[edge_p], to_p[edge_t], diagonal_mm)


def surface(mask: NDArray[np.bool_], *, grid: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """Voxels of a mask with a face neighbor outside of it.

    Args:
        mask: The mask, or the part of a grid that holds all of it.
        grid: Shape of the whole grid; None is that of `mask`.
    """
    from scipy import ndimage

    single = tuple(axis for axis, length in enumerate(grid or mask.shape) if length == 1)
    flat = np.squeeze(mask, axis=single)
    inside = ndimage.binary_erosion(flat) if flat.ndim else np.zeros_like(flat)
    return np.asarray(mask & ~inside.reshape(mask.shape))
