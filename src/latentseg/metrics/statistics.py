"""Means over patients with bootstrap intervals, of one method and of the difference of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 2000


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
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean over patients of each patient's mean value, with a percentile bootstrap interval.

    Patients are drawn with replacement, never single values: the organs of one patient, and the folds
    that query it, are not independent. Of paired differences it is the paired bootstrap.

    Args:
        by_patient: Values of each patient, for example the Dice of its organs.
        confidence: Mass of the interval.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws; the same input and seed give the same interval.

    Raises:
        InputError: There is no value.
    """
    means = patient_means(by_patient)
    if means.size == 0:
        raise InputError(
            "no value to average", where="bootstrap over patients", fix="evaluate at least one case"
        )
    rng = np.random.default_rng(seed)
    draws = means[rng.integers(0, means.size, size=(resamples, means.size))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(means.mean()), float(low), float(high), int(means.size))


def patient_means(by_patient: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """One mean per patient, in the order of their names; patients without a value are left out."""
    return np.array([float(np.mean(values)) for _, values in sorted(by_patient.items()) if len(values)])


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (n - 1); None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
