"""Geometry: from the grid of a scan to axial slices in a canonical order, and exactly back.

World coordinates are RAS in millimeters. Methods work on a stack of axial slices `(S, H, W)` in LPS order:
slice 0 is the most inferior, row 0 the most anterior, column 0 at the patient's right side (radiological
view). The voxels are only permuted and flipped, not resampled, so that the inverse is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError
from latentseg.imaging.affine import numbers, slice_axes
from latentseg.imaging.volume import Volume


@dataclass(frozen=True, eq=False)
class Canonical:
    """A volume as canonical axial slices, with the inverse of the reordering.

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
    axes, flips = slice_axes(volume.affine_ras_mm, volume.orientation)
    slices = np.flip(np.transpose(volume.array, axes), _flipped(flips))
    s, h, w = (volume.spacing_mm[axis] for axis in axes)
    return Canonical(slices=slices, spacing_mm=(s, h, w), axes=axes, flips=flips)


def same_grid(a: Volume, b: Volume, tol: float = 0.05) -> bool:
    """Whether two volumes have the same shape and no voxel center differs by more than `tol` millimeters."""
    return a.shape == b.shape and _largest_distance_mm(a, b) <= tol


def onto_grid(mask: Volume, like: Volume, *, tol: float = 0.05) -> Volume:
    """A mask on the grid of an image: by permuting, flipping and cropping alone, so that no value changes.

    Voxels of the image that the mask does not store are 0. Images that have no position in the patient, such
    as pictures, must have the same grid.

    Args:
        mask: labels on the image's grid, or on a flipped, permuted or cropped copy of it.
        like: the image.
        tol: millimeters by which voxel centers may differ.

    Raises:
        GeometryError: voxel centers do not coincide, or labels lie outside of the image; names both grids.
    """
    placed = has_position(mask) and has_position(like)
    found = _voxel_map(mask, like, tol) if placed and not same_grid(mask, like, tol) else None
    if found is None:
        check_same_grid(like, mask, tol=tol)
        return mask
    axes, signs, first = found
    turned = mask.array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    array = np.zeros(like.shape, mask.array.dtype)
    into, out_of = _common(first, turned.shape, like.shape)
    array[into] = turned[out_of]
    outside = int(np.count_nonzero(turned)) - int(np.count_nonzero(array))
    if outside:
        grids = f"{describe_grid(like)} against {describe_grid(mask)}"
        what = f"{outside} labelled voxels lie outside of the image: {grids}"
        where = f"{like.source or 'image'} and {mask.source or 'mask'}"
        raise GeometryError(what, where=where, fix="Give the image that the mask was drawn on")
    return replace(mask, array=array, affine_ras_mm=like.affine_ras_mm, header=None)


def has_position(volume: Volume) -> bool:
    """Whether the affine says where the voxels are; pictures and files without geometry have a stand-in."""
    affine, header = volume.affine_ras_mm, volume.header
    codes = [int(header[name]) for name in ("sform_code", "qform_code")] if _is_nifti(header) else [1]
    stand_in = not affine[:3, 3].any() and np.array_equal(np.abs(affine[:3, :3]), np.eye(3))
    return any(codes) and not stand_in


def _is_nifti(header: Any) -> bool:
    return hasattr(header, "get_best_affine")


def _voxel_map(
    mask: Volume, like: Volume, tol: float
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """The mask's axis for each axis of the image, its direction, and where its voxels begin.

    None where a voxel center of the mask does not lie on one of the image's grid, which is continued.
    """
    exact = np.linalg.inv(like.affine_ras_mm) @ mask.affine_ras_mm
    whole = np.rint(exact)
    turn = whole[:3, :3].astype(np.int64)
    if (np.abs(turn).sum(0) != 1).any() or (np.abs(turn).sum(1) != 1).any():
        return None
    ends = [(0, count - 1) for count in mask.shape]
    corners = np.array(np.meshgrid(*ends, [1], indexing="ij")).reshape(4, -1)
    apart_mm = like.affine_ras_mm[:3, :3] @ ((exact - whole) @ corners)[:3]
    if np.linalg.norm(apart_mm, axis=0).max() > tol:
        return None
    first = (whole @ corners)[:3].min(axis=1)
    axes, signs = np.abs(turn).argmax(1), turn.sum(1)
    return tuple(axes.tolist()), tuple(signs.tolist()), tuple(first.astype(np.int64).tolist())


def _common(
    first: tuple[int, ...], shape: tuple[int, ...], whole: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a block that begins at `first` lies in a grid of shape `whole`, and the part of it that does."""
    starts = [min(max(0, at), size) for at, size in zip(first, whole, strict=True)]
    ends = [min(max(0, at + n), size) for at, n, size in zip(first, shape, whole, strict=True)]
    into = tuple(slice(start, max(start, end)) for start, end in zip(starts, ends, strict=True))
    out_of = tuple(slice(part.start - at, part.stop - at) for part, at in zip(into, first, strict=True))
    return into, out_of


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
