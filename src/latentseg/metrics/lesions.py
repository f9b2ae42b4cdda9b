"""Lesion-wise measures: how many lesions were found, and how well the found ones were delineated.

A lesion is a connected component (26 neighbors; 8 on a slice).

**Rule for empty masks.** No lesion true and none predicted: F1 and panoptic quality are 1. Lesions on one
side only: both are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.metrics.overlap import paired_masks

FOUND_IOU = 0.1
"""IoU from which a predicted lesion counts as the true one; small lesions are rarely outlined well."""


@dataclass(frozen=True, eq=False)
class LesionMatch:
    """IoU of every true with every predicted lesion.

    Attributes:
        iou: `(T, P)` in [0, 1].
    """

    iou: NDArray[np.float64]

    @property
    def true(self) -> int:
        """Number of true lesions."""
        return len(self.iou)

    @property
    def predicted(self) -> int:
        """Number of predicted lesions."""
        return len(self.iou.T)

    def found(self, min_iou: float = FOUND_IOU) -> int:
        """Most true lesions that can be paired one to one with predictions of at least `min_iou`."""
        from scipy.optimize import linear_sum_assignment

        if not self.iou.size:
            return 0
        close = self.iou >= min_iou
        rows, columns = linear_sum_assignment(close, maximize=True)
        return int(close[rows, columns].sum())

    def f1(self, min_iou: float = FOUND_IOU) -> float:
        """`2 TP / (2 TP + FP + FN)` over lesions, in [0, 1]."""
        total = self.true + self.predicted
        return 1.0 if total == 0 else 2 * self.found(min_iou) / total

    @property
    def panoptic_quality(self) -> float:
        """Sum of the IoU of pairs above 0.5, over `TP + FP / 2 + FN / 2` (Kirillov et al. 2019)."""
        total = self.true + self.predicted
        matched = self.iou[self.iou > 0.5]  # such a pair has no rival
        return 1.0 if total == 0 else float(2 * matched.sum() / total)


def match_lesions(prediction: ArrayLike, truth: ArrayLike) -> LesionMatch:
    """Take two masks of one shape apart and compare their components.

    Raises:
        GeometryError: The shapes differ.
    """
    from scipy import ndimage

    p, t = paired_masks(prediction, truth)
    around = np.ones((3,) * p.ndim, bool)
    (of_p, count_p), (of_t, count_t) = ndimage.label(p, around), ndimage.label(t, around)
    both = np.zeros((count_t + 1, count_p + 1))
    np.add.at(both, (of_t[p | t], of_p[p | t]), 1)
    size_t, size_p = both.sum(1, keepdims=True), both.sum(0, keepdims=True)
    return LesionMatch((both / np.maximum(size_t + size_p - both, 1))[1:, 1:])
