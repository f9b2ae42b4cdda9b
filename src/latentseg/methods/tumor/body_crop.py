"""What the networks see of a scan: the body, without air and table around it, and not too much noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.imaging import Volume, fit_square
from latentseg.imaging.components import large_in_volume
from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU, brightened, is_windowed, scan_noise
from latentseg.imaging.network_input import NetworkInput, Undo, normalized_slices

BODY = -0.85  # in [-1, 1], above which a pixel may belong to the body
SHARE = 0.1  # of the slices in which the body has to reach a pixel
THIN = 0.02  # of a slice's edge, below which a structure is a table or a cable
MARGIN = 0.03  # of the box, left around it
APART = 0.7  # of the bright pixels; where the large pieces hold less, the body lies in pieces
GAP = 0.08  # of a slice's edge, between pieces of a body whose fat and lungs are black
PART = 0.1  # of the largest piece, from which another piece belongs to the body too, such as an arm
SMALLEST = 0.25  # of a slice's edge, below which a box is not believed

GREY_AIR = -0.85  # in [-1, 1], above which the window shows what is darker than fat
BLACK = 0.25  # of what is dark, from which on air is black: half in a fat abdomen, none in a window for lungs
AIR_HU, TISSUE_HU = -950.0, 20.0  # of the dark and the bright half of the pixels of a chest

QUIET = 0.066  # noise of slices in [-1, 1], the median over abdominal CT of the training (SABS 7-18)
WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # pixels, of the Gaussian against more noise
PROBED = 9  # slices from which the noise of a scan is read


def body_slices(scan: Volume, size: int) -> NetworkInput:
    """The axial slices of a scan, cut to the body, as squares of ``size`` pixels in [-1, 1].

    A CT in a window that is not known is brought to usual brightness, and noise beyond that of the training
    scans is smoothed.

    Raises:
        InputError: A constant scan, or one with values that are no numbers.
        GeometryError: Axial slices too narrow to be segmented.
    """
    canonical, values = normalized_slices(scan)
    unknown_window = scan.modality == "CT" and is_windowed(canonical.slices)
    bright = brightened(narrowed(values)) if unknown_window else values
    images, undo, pixel_mm = body_field(bright, size, pixel_mm=canonical.spacing_mm[1:])
    quiet = denoised(images) if scan.modality == "CT" else images
    images = brightened(quiet) if unknown_window else quiet
    return NetworkInput(scan, canonical, images, (canonical.spacing_mm[0], pixel_mm, pixel_mm), undo)


def narrowed(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """A CT in [-1, 1] of a window in which air is grey, such as one for lungs, in that of soft tissue."""
    dark = slices[slices < 0]
    if not dark.size or (dark < GREY_AIR).mean() > BLACK:
        return slices
    air = float(np.median(dark))
    hu = (float(np.median(slices[slices >= 0])) - air) / (TISSUE_HU - AIR_HU)
    low = air + (SOFT_TISSUE_WINDOW_HU[0] - AIR_HU) * hu
    width = (SOFT_TISSUE_WINDOW_HU[1] - SOFT_TISSUE_WINDOW_HU[0]) * hu
    return np.asarray((2 * (slices - low) / width - 1).clip(-1, 1), np.float32)


def body_field(
    slices: NDArray[np.float32], size: int, *, pixel_mm: tuple[float, float]
) -> tuple[NDArray[Any], Undo, float]:
    """Cut slices ``(S, H, W)`` in [-1, 1] to the body, and fit them to squares of ``size`` pixels.

    Returns:
        ``(S, size, size)``; ``undo``, from there to ``(S, H, W)``, with 0 outside of the box (see
        :func:`~latentseg.imaging.resize.fit_square`); and the edge of a pixel in millimeters.
    """
    rows, columns = body_box(slices)
    fitted, undo_square = fit_square(slices[:, rows, columns], size, pixel_mm=pixel_mm)

    def undo(array: NDArray[Any]) -> NDArray[Any]:
        inside = undo_square(array)
        whole = np.zeros((len(inside), *slices.shape[1:]), inside.dtype)
        whole[:, rows, columns] = inside
        return whole

    height, width = (side.stop - side.start for side in (rows, columns))
    return fitted, undo, max(height * pixel_mm[0], width * pixel_mm[1]) / size


def denoised(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Slices ``(S, H, W)`` in [-1, 1] of one CT, smoothed no more than it takes to bring their noise down.

    Sharp reconstructions hold more noise than the training, which hides tumors from the networks.
    """
    probed = np.unique(np.linspace(0, len(slices) - 1, PROBED).astype(int))
    for width in (0.0, *WIDTHS):
        smoothed = [ndimage.gaussian_filter(slices[k], width) if width else slices[k] for k in probed]
        if np.median([scan_noise(one) for one in smoothed]) <= QUIET:
            break
    return ndimage.gaussian_filter(slices, (0, width, width)) if width else slices


def body_box(slices: NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns of the body in ``(S, H, W)``; all of them where no body can be told apart."""
    height, width = slices.shape[1:]
    thin = max(1, round(THIN * min(height, width)))
    often = (slices > BODY).mean(0) >= SHARE
    body = large_pieces(ndimage.binary_fill_holes(often), thin)
    if (body & often).sum() < APART * often.sum():
        reach = max(1, round(GAP * min(height, width)) // 2)
        joined = ndimage.binary_closing(np.pad(often, 2 * reach), iterations=reach)
        inner = slice(2 * reach, -2 * reach)
        body = large_pieces(ndimage.binary_fill_holes(joined)[inner, inner], max(1, thin // 2))
    if not body.any():
        return slice(0, height), slice(0, width)
    box = ndimage.find_objects(body.astype(np.uint8))[0]
    sides = [_widened(side, edge) for side, edge in zip(box, (height, width), strict=True)]
    if any(
        side.stop - side.start < SMALLEST * edge for side, edge in zip(sides, (height, width), strict=True)
    ):
        return slice(0, height), slice(0, width)
    return sides[0], sides[1]


def large_pieces(body: NDArray[np.bool_], thin: int) -> NDArray[np.bool_]:
    """A body ``(H, W)`` without what is thin and without small pieces."""
    solid = ndimage.binary_opening(body, iterations=thin)
    return np.asarray(large_in_volume(solid[None], fraction=PART)[0])


def _widened(side: slice, edge: int) -> slice:
    margin = round(MARGIN * (side.stop - side.start)) + 1
    return slice(max(0, side.start - margin), min(edge, side.stop + margin))
