"""Candidates of tumors by shape alone, beside those that a map marks: what is wide enough for a ball.

Ours, not the paper's. A mass at the wall of a lung or its hilum looks to the map like the wall; cut off from
it where a ball no longer fits, it is a part like others (:mod:`latentseg.methods.tumor.parts`). No part goes
on farther than a mass would, so that what a tumor touches, vessels and heart above all, is not of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

GREYS = (-0.62, -0.143)  # in the lung window: of ground glass (-734 HU), of tissue (-400 HU)
BRIGHT = 0.7  # likewise, 190 HU: of bone and of vessels with contrast medium, which are no tumors
RADII_MM = (3.5, 6.0, 10.0)
REACH = 2.0  # by the radius of the largest ball in a part, how far from its middle a part goes on
LARGEST_ML = 100.0  # what is larger is a heart or a diaphragm, or two things that touch
SMOOTH = 0.7  # pixels, against noise that looks like ground glass
TOUCHING = np.ones((3, 3, 3))

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


class Part(NamedTuple):
    """A piece of a scan.

    Attributes:
        box: Slices, rows and columns in which it lies.
        mask: Which voxels of the box it is.
    """

    box: Box
    mask: Mask


def blobs(images: NDArray[np.float32], field: Mask, spacing_mm: tuple[float, float, float]) -> Iterator[Part]:
    """What balls of some radii fit into, of what is denser than air; parts of several radii overlap.

    Args:
        images: Slices ``(S, H, W)`` in [-1, 1].
        field: The same shape, where to look.
        spacing_mm: Of slices, rows and columns.

    Example:
        >>> [part.mask.sum() for part in blobs(images, lungs.around, spacing_mm)]
        [512, 96]
    """
    largest = 1000 * LARGEST_ML / np.prod(spacing_mm)
    smooth = ndimage.gaussian_filter(images, (0, SMOOTH, SMOOTH))
    for grey in GREYS:
        dense = field & (smooth > grey) & (smooth < BRIGHT)
        depth = ndimage.distance_transform_edt(np.pad(dense, 1), spacing_mm)[1:-1, 1:-1, 1:-1]
        for radius in RADII_MM:
            for box, core in cores(depth, radius, spacing_mm):
                away = ndimage.distance_transform_edt(~core, spacing_mm)
                mask = dense[box] & (away <= radius)
                if mask.sum() <= largest:
                    yield Part(box, mask)


def cores(
    depth: NDArray[np.float64], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> Iterator[Part]:
    """What is deeper than a radius, in pieces around the deepest points, with room for the radius."""
    left = depth > radius_mm
    places = np.flatnonzero(left)
    for place in places[np.argsort(-depth.flat[places], kind="stable")]:
        if not left.flat[place]:
            continue
        middle = np.unravel_index(place, left.shape)
        reach = REACH * float(depth[middle])
        box = widened(tuple(slice(at, at + 1) for at in middle), left.shape, reach + radius_mm, spacing_mm)
        offsets = [(n - at) * step for n, at, step in zip(np.ogrid[box], middle, spacing_mm, strict=True)]
        ball = np.hypot(np.hypot(offsets[0], offsets[1]), offsets[2]) <= reach
        left[box][ball] = False
        pieces = ndimage.label(ball & (depth[box] > radius_mm), TOUCHING)[0]
        own = pieces[tuple(at - side.start for at, side in zip(middle, box, strict=True))]
        yield Part(box, pieces == own)


def widened(
    box: Box, shape: tuple[int, ...], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> Box:
    """A box with a margin of a radius, within a shape."""
    pads = [int(radius_mm / step) + 1 for step in spacing_mm]
    return tuple(
        slice(max(side.start - pad, 0), min(side.stop + pad, edge))
        for side, pad, edge in zip(box, pads, shape, strict=True)
    )
