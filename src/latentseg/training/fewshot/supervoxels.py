"""Pseudo-labels: graph-based segmentation of volumes (Felzenszwalb and Huttenlocher 2004, in 3-D).

The self-supervision of the few-shot literature: a 26-neighbor graph whose edge weights are grey-value
differences, stretched between slices by the anisotropy ``s = z / x``; components merge in order of weight
while the edge is no heavier than both components' inner difference plus ``scale / size``; then components
below ``min_size`` voxels merge over their lightest edge.
"""

from __future__ import annotations

import logging
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.training.extras import require
from latentseg.training.pack import Pack, save_array

log = logging.getLogger(__name__)
OFFSETS = np.array([o for o in product((-1, 0, 1), repeat=3) if o > (0, 0, 0)], dtype=np.int64)
INNER_SCALE = 1 / 255  # of the published implementation, for grey values in 0..255
VOLUME_SIZE = 5000  # fewest voxels of a supervoxel in an abdominal volume
SLICE_SIZE = 400  # the same per slice of a volume of a few slices
BODY_GREY = 10  # of 255; air is darker


def supervoxels(
    image: NDArray[Any], *, spacing_mm: tuple[float, float, float], min_size: int, scale: float = 1.0
) -> NDArray[np.int32]:
    """Partition a volume.

    Args:
        image: ``(S, H, W)``, any intensities; stretched to 0..255 inside.
        spacing_mm: Distance between slices, rows and columns.
        min_size: Fewest voxels of a supervoxel (in papers 5000 for abdomen, 1000 for heart).
        scale: Larger values prefer larger components before the minimum size is enforced.

    Returns:
        Ids ``(S, H, W)`` from 0 upwards, without gaps.

    Raises:
        UsageError: The package numba is not installed.
    """
    require("numba", purpose="the computation of supervoxels")
    from latentseg.training.fewshot.graph_merge import merge

    grey = image.astype(np.float32)
    grey = 255 * (grey - grey.min()) / max(float(np.ptp(grey)), 1e-6)
    weights = edge_weights(grey, anisotropy=spacing_mm[0] / spacing_mm[2])
    order = np.argsort(weights, kind="stable")
    order = order[: np.searchsorted(weights[order], np.inf)]
    steps = OFFSETS @ np.array([grey.shape[1] * grey.shape[2], grey.shape[2], 1])
    roots = merge(weights, order, steps, grey.size, scale * INNER_SCALE, min_size)
    return np.unique(roots, return_inverse=True)[1].reshape(grey.shape).astype(np.int32)


def edge_weights(grey: NDArray[np.float32], *, anisotropy: float) -> NDArray[np.float32]:
    """Weights ``(13 * voxels,)``, direction-major; edges that leave the volume weigh infinity.

    ``w = |difference| sqrt(f)`` with ``f`` the mean over the axes an edge spans of 1 (in plane) or ``s^2``.
    """
    weights = np.full((len(OFFSETS), *grey.shape), np.inf, np.float32)
    for row, offset in zip(weights, OFFSETS, strict=True):
        here = tuple(slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, grey.shape, strict=True))
        there = tuple(slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, grey.shape, strict=True))
        spans = np.abs(offset)
        factor = (spans[0] * anisotropy**2 + spans[1] + spans[2]) / spans.sum()
        row[here] = np.abs(grey[there] - grey[here]) * np.float32(np.sqrt(factor))
    return weights.ravel()


def body_mask(image: NDArray[Any], *, above: float) -> NDArray[np.bool_]:
    """Per slice, the largest connected region above a grey value with its holes filled, ``(S, H, W)``."""
    out = np.zeros(image.shape, bool)
    for index, plane in enumerate(image > above):
        regions, count = ndimage.label(plane)
        if count:
            sizes = np.bincount(regions.ravel())
            sizes[0] = 0
            out[index] = ndimage.binary_fill_holes(regions == sizes.argmax())
    return out


def add_supervoxels(packed: Pack) -> None:
    """Compute ``supervoxels.npy`` of a pack: the published minimum size for volumes, less for single slices.

    Ids start at 1; 0 is outside the body.

    Raises:
        UsageError: The package numba is not installed.
    """
    out = np.zeros(packed.images.shape, np.uint16)
    for scan in packed.scans:
        at = slice(scan.first, scan.first + scan.count)
        image = packed.images[at]
        min_size = min(SLICE_SIZE * scan.count, VOLUME_SIZE)
        ids = supervoxels(image, spacing_mm=scan.spacing_mm, min_size=min_size)
        out[at] = np.where(body_mask(image, above=BODY_GREY), ids + 1, 0)
        log.info("%s %s: %d supervoxels", scan.source, scan.case, len(np.unique(out[at])) - 1)
    save_array(packed.folder / "supervoxels.npy", out)
