"""Overlap and volume agreement of two masks, and the spread of a mean over patients.

**Rule for empty masks.** Both masks empty: Dice is 1, because "absent" was the right answer. Exactly one
of them empty: Dice is 0. Pooled Dice adds the voxel counts of all cases before dividing, so an empty
pair weighs nothing in it; with no voxel at all it is 1. The relative volume error of an empty truth is
0 for an empty prediction and infinite otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.errors import GeometryError, InputError


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


def overlap(prediction: ArrayLike, truth: ArrayLike) -> Overlap:
    """Count the voxels of two masks of one shape (nonzero is foreground).

    Raises:
        GeometryError: The shapes differ.
    """
    p, t = _masks(prediction, truth)
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


def volume_error_ml(prediction: ArrayLike, truth: ArrayLike, *, voxel_volume_ml: float) -> float:
    """Signed volume error in milliliters: positive if the prediction is larger."""
    p, t = _masks(prediction, truth)
    return float((int(np.count_nonzero(p)) - int(np.count_nonzero(t))) * voxel_volume_ml)


def relative_volume_error(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Signed volume error as a fraction of the true volume; see the module's rule for empty masks."""
    p, t = (int(np.count_nonzero(mask)) for mask in _masks(prediction, truth))
    if t == 0:
        return 0.0 if p == 0 else float("inf")
    return (p - t) / t


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval, and the number of patients behind it."""

    mean: float
    low: float
    high: float
    patients: int


def bootstrap_mean(
    by_patient: Mapping[str, Sequence[float]],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over patients of each patient's mean value, with a percentile bootstrap interval.

    Patients are drawn with replacement, never single values: the organs of one patient, and the folds
    that query it, are not independent.

    Args:
        by_patient: Values of each patient, for example the Dice of its organs.
        confidence: Mass of the interval.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws; the same input and seed give the same interval.

    Raises:
        InputError: There is no value.
    """
    means = np.array([float(np.mean(values)) for _, values in sorted(by_patient.items()) if len(values)])
    if means.size == 0:
        raise InputError(
            "no value to average", where="bootstrap over patients", fix="evaluate at least one case"
        )
    rng = np.random.default_rng(seed)
    draws = means[rng.integers(0, means.size, size=(resamples, means.size))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(means.mean()), float(low), float(high), int(means.size))


def _masks(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    p, t = np.asarray(prediction).astype(bool), np.asarray(truth).astype(bool)
    if p.shape != t.shape:
        raise GeometryError(
            f"prediction has shape {p.shape} and truth {t.shape}",
            where="comparison of two masks",
            fix="compare masks on the same grid",
        )
    return p, t
