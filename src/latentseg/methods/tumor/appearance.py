"""The mask and the scan's own grey values: what the few-shot method does to its masks, for tumors.

Not of the paper; ours. The map comes on a grid of four pixels; the grey values near what it says and the
edges of the scan place the border. A lesion that is too small for either stays as it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.methods.appearance import AppearanceOptions, refine

TOUCHING = np.ones((3, 3, 3))


def with_edges(
    images: NDArray[np.float32],
    probability: NDArray[np.float32],
    *,
    options: AppearanceOptions,
    cut: float = 0.5,
) -> NDArray[np.float32]:
    """Move the borders of what is above ``cut`` to those of the images.

    Args:
        images: ``(S, H, W)`` in [-1, 1].
        probability: On the same grid.
        options: See :mod:`latentseg.methods.appearance`.
        cut: Probability from which a pixel belongs to the tumor.

    Returns:
        The probability; parts that nothing would be left of are as they were.
    """
    moved = refine(images, probability, options=options)
    parts, _ = ndimage.label(probability >= cut, TOUCHING)
    lost = (parts > 0) & ~np.isin(parts, np.unique(parts[moved >= cut]))
    return np.where(lost, probability, moved).astype(np.float32)
