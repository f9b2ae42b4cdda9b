"""Grids: the canonical slice order inside, the input's own grid outside.

The world frame is RAS in millimeters. Inside the networks every volume is a stack of axial slices
`(S, H, W)` in LPS order: slice 0 is the most inferior, row 0 the most anterior, column 0 the patient's right
side (radiological view). Getting there takes axis permutations and flips only, so that the way back is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError
from latentseg.imaging.affine import numbers, orientation_from, orientation_of
from latentseg.imaging.volume import Volume


@dataclass(frozen=True, eq=False)
class Canonical:
    """A volume as axial slices, and the way back.

    Attributes:
        slices: `(S, H, W)` view of the volume's array: inferior to superior, anterior to posterior, patient's
            right to left.
        spacing_mm: distance between slices, rows and columns.
        axes: array axis of the volume for each of S, H, W.
        flips: whether that axis runs the other way in the volume.
    """

    slices: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring another array `(I, J, K)` on the same grid into slice order `(S, H, W)`."""
        return np.flip(np.transpose(array, self.axes), _flipped(self.flips))

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring slices `(S, H, W)` back to the input's grid `(I, J, K)`, contiguous and bit for bit.

        Raises:
            GeometryError: ``array`` does not have the shape of the slices.
        """
        if array.shape != self.slices.shape:
            what = f"slices of shape {array.shape} cannot return to a grid of {self.slices.shape}"
            raise GeometryError(what, fix="Undo every resize before restore()")
        flipped = np.flip(array, _flipped(self.flips))
        return np.ascontiguousarray(np.transpose(flipped, np.argsort(self.axes)))


def to_canonical(volume: Volume) -> Canonical:
    """Order a volume's voxels as axial LPS slices by permutation and flips only (no resampling).

    The order follows the affine, or ``volume.orientation`` where the affine is known to be wrong.
    """
    orientation = orientation_from(volume.orientation) if volume.orientation else None
    world = orientation or orientation_of(volume.affine_ras_mm)
    (right, anterior, superior), (to_right, to_anterior, to_superior) = world
    axes, flips = (superior, anterior, right), (not to_superior, to_anterior, to_right)
    slices = np.flip(np.transpose(volume.array, axes), _flipped(flips))
    s, h, w = (volume.spacing_mm[axis] for axis in axes)
    return Canonical(slices=slices, spacing_mm=(s, h, w), axes=axes, flips=flips)


def same_grid(a: Volume, b: Volume, tol: float = 0.05) -> bool:
    """Whether two volumes have the same shape and no voxel center differs by more than `tol` millimeters."""
    return a.shape == b.shape and _largest_distance_mm(a, b) <= tol


def check_same_grid(image: Volume, mask: Volume, *, tol: float = 0.05) -> None:
    """Require image and mask to be on one grid.

    Raises:
        GeometryError: naming both grids.
    """
    if same_grid(image, mask, tol):
        return
    if image.shape == mask.shape:
        gap = f", voxel centers up to {_largest_distance_mm(image, mask):.3g} mm apart"
    else:
        gap = ""
    what = f"image and mask are on different grids: {describe_grid(image)} against {describe_grid(mask)}{gap}"
    where = f"{image.source or 'image'} and {mask.source or 'mask'}"
    raise GeometryError(what, where=where, fix="Resample the mask onto the image's grid (nearest neighbor)")


def describe_grid(volume: Volume) -> str:
    """One phrase for a grid: ``257x257x148 LPS, 1.17x1.17x3 mm, origin (0, 0, 0) RAS mm``."""
    shape = "x".join(map(str, volume.shape))
    spacing = "x".join(f"{mm:.4g}" for mm in volume.spacing_mm)
    origin = numbers(volume.affine_ras_mm[:3, 3])
    return f"{shape} {volume.axis_codes}, {spacing} mm, origin ({origin}) RAS mm"


def _flipped(flips: tuple[bool, bool, bool]) -> tuple[int, ...]:
    return tuple(axis for axis, flip in enumerate(flips) if flip)


def _largest_distance_mm(a: Volume, b: Volume) -> float:
    """Largest distance between equal voxel indices: affine maps differ most at a corner of the grid."""
    ends = [(0, count - 1) for count in a.shape]
    corners = np.array(np.meshgrid(*ends, [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((a.affine_ras_mm - b.affine_ras_mm) @ corners)[:3], axis=0).max())
