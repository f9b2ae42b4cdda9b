"""Interpolates masks between drawn slices, by their signed distances to the outline."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.serve.drawings import Slices

FEWEST = 2


def fill_between(drawn: Slices) -> dict[int, NDArray[np.bool_]]:
    """Masks ``(X, Y)`` of the slices that lie between drawn slices, by z.

    Raises:
        UsageError: Fewer than two slices hold the target, or they lie side by side.
    """
    held = [z for z in sorted(drawn) if drawn[z].any()]
    if len(held) < FEWEST or held[-1] - held[0] + 1 == len(held):
        fix = "paint it on two slices with some slices between them"
        raise UsageError("there is nothing to fill between drawn slices", fix=fix)
    filled = {}
    for low, high in pairwise(held):
        below, above = signed_distance(drawn[low]), signed_distance(drawn[high])
        for z in range(low + 1, high):
            if z not in drawn:
                share = (z - low) / (high - low)
                filled[z] = (1 - share) * below + share * above > 0
    return filled


def signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the outline in pixels, positive inside."""
    from scipy import ndimage

    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    return np.asarray(inside - outside, np.float64)
