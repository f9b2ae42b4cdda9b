"""Lungs as a radiologist looks at them: the air within a chest, in a window that shows what is in it.

Ours, not the paper's. In the soft-tissue window lungs are black and what is not solid in them cannot be seen;
learned organs take the dome of the diaphragm for a mass in the lungs. Air in a body needs no learning.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from latentseg.imaging import Volume, fit_square, to_canonical
from latentseg.imaging.components import box_around, large_in_volume
from latentseg.imaging.intensity import is_windowed
from latentseg.imaging.network_input import NetworkInput, Undo
from latentseg.methods.tumor.part_features import Shown

WINDOW_HU = (-1000.0, 400.0)
DARK_HU, AIR_HU, TISSUE_HU = -400.0, -1000.0, 30.0
PURE_HU = -950.0  # median below which a piece of air is no lung but bowel or trachea
PIECE = 0.1  # of the largest piece of air, from which another is a lung
THIN, CLOSED, MARGIN = 0.012, 0.045, 0.04  # of the width of both lungs: of what is no body, of what is filled
MASS = 0.12  # likewise, of notches of one lung that a mass at the hilum or the chest wall may have made
BENEATH = 0.2  # of the edge, by which what lies below a lung is farther away than it is
SMALLEST = 0.002  # of a scan, below which air within the body is no lung

Mask = NDArray[np.bool_]


class LungField(NamedTuple):
    """What there is to see of lungs.

    Attributes:
        seen: Slices in [-1, 1] in the lung window, cut to the lungs, and the way back.
        lung: ``(S, size, size)``, air of the lungs, vessels and what is enclosed by them.
        inside: The same with wide notches of each lung, such as a mass beside the mediastinum leaves.
        around: The same with what of it lies below lungs, such as a mass on the diaphragm and its dome.
        below: ``(S, size, size)``, tissue with lung above and none beneath it, such as liver and heart.
        box: Rows and columns of the canonical slices that are seen.
    """

    seen: NetworkInput
    lung: Mask
    inside: Mask
    around: Mask
    below: Mask
    box: tuple[slice, slice]

    def away(self) -> Tensor:
        """Distance ``(S, 1, size, size)`` from the lungs as a share of the edge, at most 1."""
        away = distances_from(self.inside) + BENEATH * torch.from_numpy(self.below).float()[:, None]
        return away.clamp(max=1)

    def shown(self, log_odds: NDArray[np.float32]) -> Shown:
        """What is known of the parts of a map ``(S, size, size)``."""
        dense = 2 * (DARK_HU - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]) - 1
        images = self.seen.images
        return Shown(log_odds, images, self.around, images > dense, self.seen.spacing_mm)

    def fitted(self, labels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Labels ``(S, H, W)`` of the canonical slices on the grid of what is seen."""
        size, pixel_mm = self.inside.shape[1], self.seen.canonical.spacing_mm[1:]
        rows, columns = self.box
        return fit_square(labels[:, rows, columns], size, kind="mask", pixel_mm=pixel_mm)[0]


def lung_field(scan: Volume, size: int) -> LungField | None:
    """The lungs of a CT; None where none are in view, or the window of a picture shows nothing in them.

    Args:
        scan: A CT in HU, or stored in a window in which air is not black.
        size: Edge of the slices in pixels.

    Example:
        >>> lung_field(read("chest.nii.gz"), 256).inside.any()
        True
    """
    canonical = to_canonical(scan)
    hu = hounsfield(canonical.slices)
    if hu is None:
        return None
    air = lung_air(hu)
    if air.mean() < SMALLEST:
        return None
    box = box_around(air)[1:]
    width = max(side.stop - side.start for side in box)
    lung = np.stack([closed(one, CLOSED * width) for one in air])
    middle = (box[1].start + box[1].stop) // 2
    notched = np.stack([closed_apart(one, MASS * width, middle) for one in lung])
    below = ~air & ~lower(air) if len(air) > 1 else np.zeros_like(air)
    margin = round(MARGIN * width) + 1
    rows, columns = (
        slice(max(side.start - margin, 0), min(side.stop + margin, edge))
        for side, edge in zip(box, air.shape[1:], strict=True)
    )
    low, high = WINDOW_HU
    values = (2 * (hu[:, rows, columns] - low) / (high - low) - 1).clip(-1, 1)
    row_mm, column_mm = canonical.spacing_mm[1:]
    images, undo_square = fit_square(values, size, pixel_mm=(row_mm, column_mm))
    fitted, inside, around, under = (
        fit_square(mask[:, rows, columns], size, kind="mask", pixel_mm=(row_mm, column_mm))[0]
        for mask in (air | lung & ~below, air | notched & ~below, notched, below)
    )
    edge_mm = max((rows.stop - rows.start) * row_mm, (columns.stop - columns.start) * column_mm) / size
    spacing_mm = (canonical.spacing_mm[0], edge_mm, edge_mm)
    undo = within_box(undo_square, (rows, columns), (hu.shape[1], hu.shape[2]))
    seen = NetworkInput(scan, canonical, images, spacing_mm, undo)
    return LungField(seen, fitted, inside, around, under, (rows, columns))


def within_box(undo_square: Undo, box: tuple[slice, slice], shape: tuple[int, int]) -> Undo:
    """The way back from squares to whole slices of which they are a box."""

    def undo(array: NDArray[np.generic]) -> NDArray[np.generic]:
        inside = undo_square(array)
        whole = np.zeros((len(inside), *shape), inside.dtype)
        whole[:, box[0], box[1]] = inside
        return whole

    return undo


def hounsfield(slices: NDArray[np.generic]) -> NDArray[np.float32] | None:
    """HU of slices ``(S, H, W)``, those of pictures from the grey of air and of tissue; None without them."""
    values = np.asarray(slices, np.float32)
    if not is_windowed(values):
        return values
    middle = values.max() / 2
    if not (values < middle).any():
        return None
    air, tissue = float(np.percentile(values, 5)), float(np.median(values[values >= middle]))
    return np.asarray(AIR_HU + (values - air) * (TISSUE_HU - AIR_HU) / (tissue - air), np.float32)


def lung_air(hu: NDArray[np.float32]) -> Mask:
    """Large pieces of air within the body ``(S, H, W)``."""
    dark = hu < DARK_HU
    thin = max(round(THIN * hu.shape[2]), 1)
    solid = [ndimage.binary_opening(~one, iterations=thin) for one in dark]
    body = np.stack([ndimage.binary_fill_holes(one) for one in solid])
    pieces, count = ndimage.label(ndimage.binary_opening(body & dark, np.ones((1, 3, 3))), np.ones((3, 3, 3)))
    if not count:
        return np.zeros(hu.shape, bool)
    levels = np.asarray(ndimage.median(hu, pieces, range(1, count + 1)))
    lung = np.isin(pieces, 1 + np.flatnonzero(levels >= PURE_HU))
    return large_in_volume(lung, fraction=PIECE)


def closed(air: Mask, radius: float) -> Mask:
    """Air ``(H, W)`` with what is enclosed by it, and notches narrower than twice a radius in pixels."""
    pad = int(radius) + 2
    padded = np.pad(air, pad)
    if not padded.any():
        return air
    reached = ndimage.distance_transform_edt(~padded) <= radius
    filled = ndimage.binary_fill_holes(ndimage.distance_transform_edt(reached) > radius)
    return np.asarray(filled[pad:-pad, pad:-pad] | air)


def closed_apart(lungs: Mask, radius: float, middle: int) -> Mask:
    """The same for what lies left and right of a column, so that nothing between two lungs is filled."""
    sides = lungs[:, :middle], lungs[:, middle:]
    return np.concatenate([closed(side, radius) for side in sides], 1)


def distances_from(inside: Mask) -> Tensor:
    """Distance ``(S, 1, size, size)`` from a mask as a share of the edge; 1 on slices without it."""
    far = [
        ndimage.distance_transform_edt(~one) / one.shape[1] if one.any() else np.ones(one.shape)
        for one in inside
    ]
    return torch.from_numpy(np.stack(far).clip(max=1).astype(np.float32))[:, None]


def lower(air: Mask) -> Mask:
    """Where lung is on the same or on some lower slice of ``(S, H, W)``, inferior to superior."""
    return np.asarray(np.logical_or.accumulate(air, axis=0))
