"""Connected components: what is kept of a thresholded mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]


def largest_per_slice(mask: Mask) -> Mask:
    """Keep the largest 8-connected component of every slice of ``(S, H, W)`` (the released rule).

    A second part of the organ on the same slice is lost; of equal components the first in reading order is
    kept.
    """
    return np.stack([_largest(plane) for plane in mask]) if len(mask) else mask.copy()


def box_around(mask: Mask) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask, as an index; one without voxels where the mask is empty.

    Example:
        >>> box_around(np.array([False, True, False, True, False]))
        (slice(1, 4, None),)
    """
    box = []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(held[0]), int(held[-1]) + 1) if held.size else slice(0, 0))
    return tuple(box)


def large_in_volume(mask: Mask, *, fraction: float = 0.2) -> Mask:
    """Keep every component of ``(S, H, W)`` that has at least ``fraction`` of the voxels of the largest one.

    Components touch by faces, edges or corners (26-connected), so that an organ that is split on a slice but
    whole in the volume stays whole.
    """
    box = box_around(mask)
    kept = np.zeros(mask.shape, dtype=bool)
    labels, count = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
    if count:
        sizes = np.bincount(labels.ravel())
        keep = sizes >= fraction * sizes[1:].max()
        keep[0] = False
        kept[box] = keep[labels]
    return kept


def _largest(plane: Mask) -> Mask:
    labels, count = ndimage.label(plane, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(plane.shape, dtype=bool)
    winner: Mask = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return winner
