"""A scan as the input of a network, and how results return to the grid of the scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError
from latentseg.imaging.geometry import Canonical, to_canonical
from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU, normalize
from latentseg.imaging.resize import fit_square, resampled
from latentseg.imaging.volume import Volume

NARROWEST = 64  # a slice this many times longer than wide would be less than four pixels wide

Undo = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A scan as the input of a network: square slices for a 2-D backbone, one block for a 3-D backbone.

    Attributes:
        scan: The scan.
        canonical: Its axial slices, inferior to superior, and the way from there to its grid.
        images: ``(S, H, W)`` float32 in [-1, 1].
        spacing_mm: Distance of slices, rows and columns of the images.
        undo: From arrays ``(S, H, W)`` like the images to the canonical slices' own size.
        block: Whether the images are one block, whose slices need not be those of the scan; ``undo`` then
            takes whole blocks alone.

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
    block: bool = False

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array ``(S, H, W)`` back to the grid ``(I, J, K)`` of the scan.

        Numbers are interpolated linearly, labels and bools by the nearest pixel.
        """
        return self.canonical.restore(np.asarray(self.undo(array)))


def square_slices(scan: Volume, size: int, *, whole_range: bool = False) -> NetworkInput:
    """The axial slices of a scan, normalized, padded to squares in millimeters and resized to ``size``.

    Args:
        scan: The scan.
        size: Edge in pixels.
        whole_range: See :func:`latentseg.imaging.normalize`.

    Raises:
        InputError: A constant scan, or one with values that are no numbers.
        GeometryError: Axial slices too narrow to be segmented.
    """
    canonical, values = normalized_slices(scan, whole_range=whole_range)
    images, undo = fit_square(values, size, pixel_mm=canonical.spacing_mm[1:])
    return NetworkInput(scan, canonical, images, square_spacing_mm(canonical, size), undo)


def volume_block(
    scan: Volume, *, voxel_mm: float, multiple: int, window_hu: tuple[float, float] = SOFT_TISSUE_WINDOW_HU
) -> NetworkInput:
    """A scan as one block for a 3-D network, whole and not cut, as such networks know large fields of view.

    Axes that are finer than ``voxel_mm`` are resampled to it, coarser ones stay as they are: the network is
    told the spacing. Air after the last slices, rows and columns makes the edges fit.

    Args:
        scan: The scan.
        voxel_mm: Finest edge of a voxel.
        multiple: Of the edges in voxels.
        window_hu: Of a CT, that is mapped to [-1, 1].

    Raises:
        InputError: A constant scan, or one with values that are no numbers.
        GeometryError: Axial slices too narrow to be segmented.

    Example:
        >>> seen = volume_block(read("ct.nii.gz"), voxel_mm=1.5, multiple=32)
        >>> seen.back(seen.images > 0).shape == seen.scan.shape
        True
    """
    canonical, values = normalized_slices(scan, window_hu=window_hu)
    lengths_mm = [n * mm for n, mm in zip(values.shape, canonical.spacing_mm, strict=True)]
    shape, given = resampled_shape(canonical, voxel_mm=voxel_mm), values.shape
    pads = [(0, -n % multiple) for n in shape]
    images = np.pad(resampled(values, shape), pads, constant_values=np.float32(-1.0))

    def undo(array: NDArray[Any]) -> NDArray[Any]:
        return resampled(array[: shape[0], : shape[1], : shape[2]], given)

    step_mm, row_mm, column_mm = (mm / n for mm, n in zip(lengths_mm, shape, strict=True))
    return NetworkInput(scan, canonical, images, (step_mm, row_mm, column_mm), undo, block=True)


def resampled_shape(canonical: Canonical, *, voxel_mm: float) -> tuple[int, int, int]:
    """Slices, rows and columns of a scan whose axes are no finer than ``voxel_mm``."""
    sizes = zip(canonical.slices.shape, canonical.spacing_mm, strict=True)
    depth, height, width = (max(1, min(n, round(n * mm / voxel_mm))) for n, mm in sizes)
    return depth, height, width


def normalized_slices(
    scan: Volume, *, window_hu: tuple[float, float] = SOFT_TISSUE_WINDOW_HU, whole_range: bool = False
) -> tuple[Canonical, NDArray[np.float32]]:
    """The axial slices of a scan, and their values ``(S, H, W)`` in [-1, 1]; errors as above."""
    where = str(scan.source or "the scan")
    canonical = to_canonical(scan)
    check_slices(canonical, where=where)
    values = normalize(
        canonical.slices, modality=scan.modality, window=window_hu, where=where, whole_range=whole_range
    )
    return canonical, values


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
