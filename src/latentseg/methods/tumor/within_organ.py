"""Parts of a mask that are let go: those that lie elsewhere, and those beside a much larger one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

CELL = np.ones((1, 3, 3), bool)  # of the organs' grid: 5 to 6 mm in a trunk
TOUCHING = np.ones((3, 3, 3))


def within(
    probability: NDArray[np.float32], organ: NDArray[np.bool_], *, own: float, cut: float = 0.5
) -> NDArray[np.float32]:
    """The probability ``(S, H, W)`` without the parts above ``cut`` that lie elsewhere.

    Args:
        probability: Of the tumor.
        organ: ``(S, h, w)``, where its organ was found, on a coarser grid.
        own: Share of a part that lies in the organ, or a cell beside it, from which it is a tumor of it.
        cut: Probability from which a pixel belongs to the tumor.
    """
    near = resize(ndimage.binary_dilation(organ, CELL), probability.shape, order=0, anti_aliasing=False)
    parts, count = ndimage.label(probability >= cut, TOUCHING)
    share = ndimage.mean(near, parts, range(1, count + 1)) if count else np.zeros(0)
    foreign = np.isin(parts, 1 + np.flatnonzero(np.asarray(share) < own))
    return np.where(foreign, np.float32(0), probability)


def without_lesser(
    probability: NDArray[np.float32], *, share: float, cut: float = 0.5
) -> NDArray[np.float32]:
    """The probability ``(S, H, W)`` without the parts above ``cut`` that are small beside the largest.

    Args:
        probability: Of the tumor.
        share: Of the sum of the largest part's probability, which a part needs to stay.
        cut: Probability from which a pixel belongs to the tumor.
    """
    parts, count = ndimage.label(probability >= cut, TOUCHING)
    sums = np.asarray(ndimage.sum(probability, parts, range(1, count + 1)))
    lesser = np.isin(parts, 1 + np.flatnonzero(sums < share * sums.max(initial=0)))
    return np.where(lesser, np.float32(0), probability)
