"""Measurements of a mask: intensities inside it, largest axial diameter, bounding box."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging.components import box_around

PERCENTILES = (5, 25, 50, 75, 95)
DECIMALS = 3


def intensity_statistics(values: NDArray[Any]) -> dict[str, float | None]:
    """Mean, standard deviation and percentiles of the intensities in a mask, in the units of the scan.

    Args:
        values: ``(N,)`` intensities of the voxels in the mask.

    Returns:
        ``intensity_mean``, ``intensity_sd`` (of the population) and ``intensity_p5`` to ``intensity_p95``;
        all None where there is no voxel.

    Example:
        >>> intensity_statistics(np.array([10, 20, 30]))["intensity_mean"]
        20.0
    """
    names = ["intensity_mean", "intensity_sd", *(f"intensity_p{share}" for share in PERCENTILES)]
    if values.size == 0:
        return dict.fromkeys(names)
    inside = values.astype(np.float64)
    found = [inside.mean(), inside.std(), *np.percentile(inside, PERCENTILES)]
    return {name: round(float(value), DECIMALS) for name, value in zip(names, found, strict=True)}


def bounding_box(mask: NDArray[np.bool_]) -> list[list[int]] | None:
    """First and last index of a mask ``(I, J, K)`` along each axis; None of an empty one.

    Example:
        >>> bounding_box(np.eye(3, dtype=bool)[..., None])
        [[0, 2], [0, 2], [0, 0]]
    """
    box = box_around(mask)
    return [[edges.start, edges.stop - 1] for edges in box] if box[0].stop else None


def touches_border(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask ``(I, J, K)`` reaches the edge of its grid."""
    return any(bool(np.take(mask, [0, -1], axis).any()) for axis in range(3))


def largest_axial_diameter_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, float]) -> float:
    """The longest straight line between two points of a mask in one axial slice, in millimeters.

    It ends in the middle of the outer edge of a pixel, so that a single pixel of 1 mm has a diameter of 1 mm,
    as that of the mesh of pyradiomics; the line may leave the mask in between. This is the long diameter of
    RECIST 1.1 where the mask is one lesion.

    Args:
        mask: ``(S, H, W)`` axial slices.
        spacing_mm: Of rows and columns, as ``Canonical.spacing_mm[1:]``.

    Returns:
        0 where the mask is empty.
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    mask = mask[box_around(mask)]
    longest = 0.0
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        points_mm = _edges(mask[k]) * spacing_mm
        if float(np.hypot(*np.ptp(points_mm, axis=0))) > longest:
            corners = points_mm[ConvexHull(points_mm).vertices]
            longest = max(longest, float(pdist(corners).max()))
    return longest


def _edges(plane: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Outermost edges ``(N, 2)`` of every row and column of a mask ``(H, W)``, in pixels."""
    return np.concatenate([_ends(plane), _ends(plane.T)[:, ::-1]])


def _ends(plane: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Left edge of the first pixel and right edge of the last one in every row that holds the mask."""
    rows = np.flatnonzero(plane.any(axis=1))
    first = plane[rows].argmax(axis=1) - 0.5
    last = plane.shape[1] - 1 - plane[rows, ::-1].argmax(axis=1) + 0.5
    return np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)])
