"""Affines: where voxel axes point to in the patient, in RAS world millimeters."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the world of DICOM and ITK to ours, and back."""

MAX_SHEAR_COSINE = 0.01
"""Largest cosine between two voxel axes that still counts as a right angle (0.6 degrees)."""


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


def slice_axes(
    affine_ras_mm: NDArray[np.float64], orientation: str | None = None
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Array axis of slices, rows and columns of axial slices in LPS order, and whether each is reversed.

    The order follows the affine, or ``orientation`` where the affine is known to be wrong.
    """
    world = orientation_from(orientation) if orientation else orientation_of(affine_ras_mm)
    (right, anterior, superior), (to_right, to_anterior, to_superior) = world
    return (superior, anterior, right), (not to_superior, to_anterior, to_right)


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
        what = f"the affine cannot be inverted (voxel axes of {numbers(lengths)} mm)"
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


def numbers(values: NDArray[np.float64]) -> str:
    """Four significant digits of each value, for a sentence."""
    return ", ".join(f"{value + 0.0:.4g}" for value in values)
