"""A scan as a network sees it, and the way back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError
from latentseg.imaging.geometry import Canonical, to_canonical
from latentseg.imaging.intensity import normalize
from latentseg.imaging.resize import fit_square
from latentseg.imaging.volume import Volume

NARROWEST = 64  # a slice this many times longer than wide would be less than four pixels wide

Undo = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A scan as a network sees it: a stack of square slices for a 2-D backbone, a block for a 3-D one.

    Attributes:
        scan: The scan.
        canonical: Its axial slices, inferior to superior, and the way from there to its grid.
        images: ``(S, H, W)`` float32 in [-1, 1].
        spacing_mm: Distance of slices, rows and columns of the images.
        undo: From arrays ``(S, H, W)`` like the images to the canonical slices' own size.

    Example:
        >>> seen = square_slices(read("ct.nii.gz"), 256)
        >>> seen.back(seen.images > 0).shape == seen.scan.shape
        True
    """

    scan: Volume
    canonical: Canonical
    images: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    undo: Undo

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array ``(S, H, W)`` back to the grid ``(I, J, K)`` of the scan.

        Numbers are interpolated linearly, labels and bools by the nearest pixel.
        """
        return self.canonical.restore(np.asarray(self.undo(array)))


def square_slices(scan: Volume, size: int) -> NetworkInput:
    """The axial slices of a scan, normalized, padded to squares in millimeters and resized to ``size``.

    Raises:
        InputError: A constant scan, or one with values that are no numbers.
        GeometryError: Axial slices too narrow to be segmented.
    """
    canonical, values = normalized_slices(scan)
    images, undo = fit_square(values, size, pixel_mm=canonical.spacing_mm[1:])
    return NetworkInput(scan, canonical, images, square_spacing_mm(canonical, size), undo)


def normalized_slices(scan: Volume) -> tuple[Canonical, NDArray[np.float32]]:
    """The axial slices of a scan, and their values ``(S, H, W)`` in [-1, 1]; errors as above."""
    where = str(scan.source or "the scan")
    canonical = to_canonical(scan)
    check_slices(canonical, where=where)
    return canonical, normalize(canonical.slices, modality=scan.modality, where=where)


def square_spacing_mm(canonical: Canonical, size: int) -> tuple[float, float, float]:
    """Distance of slices, rows and columns when slices are padded to squares of ``size`` pixels."""
    _, height, width = canonical.slices.shape
    step_mm, row_mm, column_mm = canonical.spacing_mm
    pixel_mm = max(height * row_mm, width * column_mm) / size
    return step_mm, pixel_mm, pixel_mm


def check_slices(canonical: Canonical, *, where: str) -> None:
    """Refuse slices too narrow to be seen, such as those of a single sagittal slice or of a damaged header.

    Raises:
        GeometryError: Height and width differ more than 64 times.
    """
    _, height, width = canonical.slices.shape
    sides_mm = height * canonical.spacing_mm[1], width * canonical.spacing_mm[2]
    if max(sides_mm) > NARROWEST * min(sides_mm):
        raise GeometryError(
            f"the axial slices measure {sides_mm[0]:.4g} x {sides_mm[1]:.4g} mm, too narrow to segment",
            where=where,
            fix="check the spacing and the orientation in the header",
        )
