"""Calibration: of the voxels that are given a probability, the share that is in the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

BINS = 10
FEWEST = 20  # voxels of a bin that counts as a point of the curve


@dataclass(frozen=True, eq=False)
class Reliability:
    """Voxels in ten equal bins of probability.

    Attributes:
        voxels: How many, ``(10)``.
        chance: Sum of their probabilities.
        true: How many of them are in the target.
    """

    voxels: NDArray[np.float64]
    chance: NDArray[np.float64]
    true: NDArray[np.float64]

    @classmethod
    def of(cls, probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> Self:
        """Count the voxels of one scan; both of one shape."""
        chance = np.clip(probability.ravel(), 0, 1)
        at = np.minimum((chance * BINS).astype(np.intp), BINS - 1)
        weights = (None, chance, truth.ravel())
        return cls(*(np.bincount(at, weights=w, minlength=BINS).astype(np.float64) for w in weights))

    def __add__(self, other: Reliability) -> Reliability:
        """The voxels of both."""
        return Reliability(self.voxels + other.voxels, self.chance + other.chance, self.true + other.true)

    @property
    def points(self) -> list[tuple[float, float]]:
        """Mean probability and share in the target, of each bin with enough voxels."""
        rows = zip(self.voxels, self.chance, self.true, strict=True)
        return [(float(p / n), float(t / n)) for n, p, t in rows if n >= FEWEST]

    @property
    def error(self) -> float | None:
        """Expected calibration error from the second bin on; None without voxels there."""
        total = self.voxels[1:].sum()
        return float(np.abs(self.chance - self.true)[1:].sum() / total) if total else None
