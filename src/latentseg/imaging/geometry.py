"""Grids: the canonical slice order inside, the input's own grid outside.

The world frame is RAS in millimeters. Inside the networks every volume is a stack of axial slices
`(S, H, W)` in LPS order: slice 0 is the most inferior, row 0 the most anterior, column 0 the patient's right
side (radiological view). Getting there takes axis permutations and flips only, so that the way back is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError

if TYPE_CHECKING:
    from latentseg.imaging.volume import Volume

MAX_SHEAR_COSINE = 0.01
"""Largest cosine between two voxel axes that still counts as a right angle (0.6 degrees)."""

SliceKind = Literal["image", "mask", "soft"]


def spacing_of(affine_ras_mm: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel spacing in millimeters along the array axes I, J, K."""
    i, j, k = np.linalg.norm(affine_ras_mm[:3, :3], axis=0)
    return float(i), float(j), float(k)


def orientation_of(affine_ras_mm: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which array axis runs closest to each world axis, and whether it runs in its positive direction.

    Returns:
        `(axes, positive)`, both in the order R, A, S: array axis `axes[w]` is nearest to world axis `w`. The
        assignment is a permutation for every invertible affine, also at 45 degrees.
    """
    cosines = affine_ras_mm[:3, :3] / np.linalg.norm(affine_ras_mm[:3, :3], axis=0)
    axes = max(permutations(range(3)), key=lambda p: round(sum(abs(cosines[w, p[w]]) for w in range(3)), 9))
    return axes, tuple(bool(cosines[world, axis] >= 0) for world, axis in enumerate(axes))


def axis_codes_of(affine_ras_mm: NDArray[np.float64]) -> str:
    """Three letters saying where the array axes I, J, K point to, for example ``"LPS"``."""
    axes, positive = orientation_of(affine_ras_mm)
    letters = {axis: ("LR", "PA", "IS")[world][positive[world]] for world, axis in enumerate(axes)}
    return "".join(letters[axis] for axis in range(3))


def orientation_from(codes: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The same pair as :func:`orientation_of`, from axis codes such as ``"LAS"``.

    Raises:
        GeometryError: not one letter of each of the pairs LR, PA and IS.
    """
    pairs = ("LR", "PA", "IS")
    found = [[axis for axis, letter in enumerate(codes.upper()) if letter in pair] for pair in pairs]
    if len(codes) != 3 or any(len(axes) != 1 for axes in found):
        fix = "Give one letter of each pair L/R, P/A and I/S, for example LAS"
        raise GeometryError(f"'{codes}' is no orientation", fix=fix)
    axes = tuple(axis for (axis,) in found)
    return axes, tuple(codes.upper()[axis] == pair[1] for axis, pair in zip(axes, pairs, strict=True))


def check_affine(affine_ras_mm: NDArray[np.float64], *, where: str = "") -> None:
    """Refuse an affine that describes no right-angled voxel grid.

    Raises:
        GeometryError: not `(4, 4)`, not finite, not invertible, or sheared by more than 0.6 degrees.
    """
    affine = np.asarray(affine_ras_mm)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        what = f"the affine of shape {affine.shape} is not a finite 4x4 matrix"
        raise GeometryError(what, where=where, fix="Repair the header's sform or qform")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() <= 1e-6 or not np.array_equal(affine[3], [0, 0, 0, 1]):
        what = f"the affine cannot be inverted (voxel axes of {_numbers(lengths)} mm)"
        raise GeometryError(what, where=where, fix="Repair the header's sform or qform")
    cosines = (affine[:3, :3] / lengths).T @ (affine[:3, :3] / lengths)
    shear = float(np.abs(np.triu(cosines, 1)).max())
    if shear > 1 - 1e-6:
        what = "the affine cannot be inverted (two voxel axes are parallel)"
        raise GeometryError(what, where=where, fix="Repair the header's sform or qform")
    if shear > MAX_SHEAR_COSINE:
        angle = np.degrees(np.arcsin(min(shear, 1.0)))
        what = f"the voxel axes are sheared by {angle:.1f} degrees (gantry tilt or an affine registration)"
        raise GeometryError(what, where=where, fix="Resample the scan to a right-angled grid first")


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


def fit_square(
    slices: NDArray[Any],
    size: int,
    *,
    kind: SliceKind = "image",
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    pad_value: float = -1.0,
) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """Pad slices to a centered square and resize them to `size` pixels.

    Args:
        slices: `(S, H, W)`.
        size: side of the result in pixels.
        kind: ``"image"`` resizes linearly (antialiased when shrinking) to float32; ``"mask"`` takes the
            nearest label and keeps the data type; ``"soft"`` turns a binary mask into coverage fractions
            in [0, 1].
        pixel_mm: height and width of a pixel; the square is square in millimeters.
        pad_value: value outside an image; the default is air after ``normalize``. Masks are padded with 0.

    Returns:
        `(S, size, size)` and ``undo``, which takes probabilities (resized linearly) or integer and bool
        labels (nearest) of shape `(S', size, size)` back to `(S', H, W)`. Both directions share one
        pixel-center mapping, so nothing shifts.
    """
    rows, columns = _square_axes(slices.shape[1:], size, pixel_mm)
    if kind == "mask":
        fitted = _nearest(slices, rows, columns)
    else:
        values = slices.astype(np.float32) if kind == "image" else (slices > 0).astype(np.float32)
        fitted = _linear(values, rows, columns, pad_value if kind == "image" else 0.0)

    def undo(array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind in "bui":
            return _nearest(array, rows.inverse(), columns.inverse())
        return _linear(array.astype(np.float32), rows.inverse(), columns.inverse(), 0.0)

    return fitted, undo


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
    origin = _numbers(volume.affine_ras_mm[:3, 3])
    return f"{shape} {volume.axis_codes}, {spacing} mm, origin ({origin}) RAS mm"


def _flipped(flips: tuple[bool, bool, bool]) -> tuple[int, ...]:
    return tuple(axis for axis, flip in enumerate(flips) if flip)


@dataclass(frozen=True)
class _Axis:
    """Resizing one axis: `source` pixels, padded at both ends to `padded`, become `target` pixels."""

    source: int
    before: int
    padded: int
    target: int
    inverted: bool = False

    def inverse(self) -> _Axis:
        return _Axis(self.source, self.before, self.padded, self.target, not self.inverted)

    def nearest(self) -> NDArray[np.intp]:
        """Source index of every output pixel; -1 where it falls on padding."""
        if self.inverted:
            return _centers(self.padded, self.target)[self.before : self.before + self.source]
        index = _centers(self.target, self.padded) - self.before
        return np.where((index >= 0) & (index < self.source), index, -1)

    def weights(self) -> NDArray[np.float32]:
        """Linear weights `(output, input)`; a row's missing sum belongs to the padding."""
        if self.inverted:
            return _triangle(self.target, self.padded)[self.before : self.before + self.source]
        return _triangle(self.padded, self.target)[:, self.before : self.before + self.source]


def _square_axes(shape: tuple[int, ...], size: int, pixel_mm: tuple[float, float]) -> tuple[_Axis, _Axis]:
    side_mm = max(count * mm for count, mm in zip(shape, pixel_mm, strict=True))
    axes = []
    for count, mm in zip(shape, pixel_mm, strict=True):
        padded = max(count, round(side_mm / mm))
        axes.append(_Axis(count, (padded - count) // 2, padded, size))
    return axes[0], axes[1]


def _centers(outputs: int, inputs: int) -> NDArray[np.intp]:
    return np.minimum((np.arange(outputs) + 0.5) * inputs / outputs, inputs - 1).astype(np.intp)


def _triangle(inputs: int, outputs: int) -> NDArray[np.float32]:
    """Rows of triangle-filter weights: linear interpolation, widened to antialias when shrinking."""
    scale = inputs / outputs
    positions = (np.arange(outputs) + 0.5) * scale - 0.5
    distance = np.abs(positions[:, None] - np.arange(inputs)[None]) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights, np.float32)


def _linear(values: NDArray[np.float32], rows: _Axis, columns: _Axis, pad: float) -> NDArray[np.float32]:
    left, right = rows.weights(), columns.weights().T
    out = np.empty((values.shape[0], left.shape[0], right.shape[1]), np.float32)
    for index, image in enumerate(values):
        out[index] = left @ (image - np.float32(pad)) @ right
    out += np.float32(pad)
    return out


def _nearest(labels: NDArray[Any], rows: _Axis, columns: _Axis) -> NDArray[Any]:
    i, j = rows.nearest(), columns.nearest()
    out = labels[:, i[:, None], j[None, :]]
    out[:, (i[:, None] < 0) | (j[None, :] < 0)] = 0
    return out


def _largest_distance_mm(a: Volume, b: Volume) -> float:
    """Largest distance between equal voxel indices: affine maps differ most at a corner of the grid."""
    ends = [(0, count - 1) for count in a.shape]
    corners = np.array(np.meshgrid(*ends, [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((a.affine_ras_mm - b.affine_ras_mm) @ corners)[:3], axis=0).max())


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value + 0.0:.4g}" for value in values)
