"""Removes what continues beyond a slice that a person emptied: there the structure has ended."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latentseg.serve.drawings import Slices


def beyond_emptied(mask: NDArray[np.bool_], drawn: Slices) -> NDArray[np.bool_]:
    """Voxels that a model found only by going on through a slice that a person emptied.

    The mask is cut at the emptied slices. A part that lay on both sides of a cut stays where it holds
    something that a person drew, and goes where it does not.

    Args:
        mask: ``(X, Y, Z)``, what the model found.
        drawn: Slices that a person drew, by z.

    Returns:
        ``(X, Y, Z)``; nothing where no slice was emptied, or none was drawn that holds the target.
    """
    emptied = [z for z, slice_ in drawn.items() if not slice_.any() and mask[:, :, z].any()]
    held = {z: slice_ for z, slice_ in drawn.items() if slice_.any()}
    if not emptied or not held:
        return np.zeros_like(mask)
    from scipy import ndimage

    neighbors = np.ones((3, 3, 3))
    cut = mask.copy()
    for z, slice_ in held.items():
        cut[:, :, z] = slice_
    cut[:, :, emptied] = False
    parts = ndimage.label(cut, structure=neighbors)[0]
    whole = ndimage.label(mask, structure=neighbors)[0]
    crossing = np.unique(whole[:, :, emptied])
    crossed = np.isin(whole, crossing[crossing > 0])
    shown = {int(part) for z in held for part in np.unique(parts[:, :, z])}
    touched = {int(part) for part in np.unique(parts[crossed & (parts > 0)])}
    gone: NDArray[np.bool_] = np.isin(parts, sorted(touched - shown - {0}))
    return gone
