"""Overlap and volume agreement of two masks.

**Rule for empty masks.** Both masks empty: Dice and IoU are 1, because "absent" was the right answer.
Exactly one of them empty: both are 0. Pooled Dice adds the voxel counts of all cases before dividing, so an
empty pair weighs nothing in it; with no voxel at all it is 1. The relative volume error of an empty truth is
0 for an empty prediction and infinite otherwise. Distances have their own rule, see `surface`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.errors import GeometryError


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a predicted mask against the true one; the sum of two is their pooled overlap.

    Attributes:
        both: Voxels in the prediction and in the truth.
        only_prediction: Voxels in the prediction alone (false positives).
        only_truth: Voxels in the truth alone (false negatives).
    """

    both: int = 0
    only_prediction: int = 0
    only_truth: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.both + other.both,
            self.only_prediction + other.only_prediction,
            self.only_truth + other.only_truth,
        )

    @property
    def dice(self) -> float:
        """`2 |P ∩ T| / (|P| + |T|)` in [0, 1]; 1 if both masks are empty."""
        total = 2 * self.both + self.only_prediction + self.only_truth
        return 1.0 if total == 0 else 2 * self.both / total

    @property
    def iou(self) -> float:
        """`|P ∩ T| / |P ∪ T|` in [0, 1]; 1 if both masks are empty."""
        total = self.both + self.only_prediction + self.only_truth
        return 1.0 if total == 0 else self.both / total

    @property
    def relative_volume_error(self) -> float:
        """`(|P| - |T|) / |T|`; of an empty truth 0 for an empty prediction, infinite otherwise."""
        difference, truth = self.only_prediction - self.only_truth, self.both + self.only_truth
        if truth == 0:
            return float("inf") if difference else 0.0
        return difference / truth


def overlap(prediction: ArrayLike, truth: ArrayLike) -> Overlap:
    """Count the voxels of two masks of one shape (nonzero is foreground).

    Raises:
        GeometryError: The shapes differ.
    """
    p, t = paired_masks(prediction, truth)
    both = int(np.count_nonzero(p & t))
    return Overlap(both, int(np.count_nonzero(p)) - both, int(np.count_nonzero(t)) - both)


def dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Dice coefficient of two masks in [0, 1]; see the module's rule for empty masks.

    Raises:
        GeometryError: The shapes differ.
    """
    return overlap(prediction, truth).dice


def pooled_dice(overlaps: Iterable[Overlap]) -> float:
    """Micro Dice: one coefficient of the added voxel counts, so that large patients weigh more.

    Some papers report this, most report the mean of per-patient Dice; the two do not compare.
    """
    return sum(overlaps, Overlap()).dice


def paired_masks(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two masks of one shape as bool.

    Raises:
        GeometryError: The shapes differ.
    """
    p, t = np.asarray(prediction).astype(bool), np.asarray(truth).astype(bool)
    if p.shape != t.shape:
        raise GeometryError(
            f"prediction has shape {p.shape} and truth {t.shape}",
            where="comparison of two masks",
            fix="compare masks on the same grid",
        )
    return p, t
