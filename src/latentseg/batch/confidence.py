"""Confidence of a result, per target, by which people decide which results they review first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging import to_canonical
from latentseg.methods.measures import touches_border

if TYPE_CHECKING:
    from latentseg.methods.results import Segmentation

CONSIDERED = 0.1  # probability from which a voxel counts as possibly in the target
BORDER_WEIGHT = 0.5  # of a cut-off target in the order of review; 1 is a result without any certainty
UNCERTAIN = 0.5  # bits; mean uncertainty that is pointed out
DOUBTFUL = 0.5  # doubt about presence that is pointed out: a presence of 0.25 to 0.75


@dataclass(frozen=True)
class Confidence:
    """The confidence of one result.

    Attributes:
        presence: Score in [0, 1] that the target is in the scan at all.
        uncertainty: Mean entropy, in bits, of the voxels that may belong to the target; 0 is sure, 1 is a
            guess.
        worst_slice: Axial slice with the largest sum of entropy, as an index along ``slice_axis``; -1 where
            no voxel is in question.
        slice_axis: Axis of the stored array, I, J or K, along which slices are counted.
        touches_border: Whether the mask reaches the border of the scan, so that a part may be cut off.
    """

    presence: float
    uncertainty: float
    worst_slice: int
    slice_axis: str
    touches_border: bool

    @property
    def review(self) -> float:
        """How much a look is worth: uncertainty, doubt about presence, and a cut-off target, summed."""
        return round(self.uncertainty + self.doubt + BORDER_WEIGHT * self.touches_border, 4)

    @property
    def doubt(self) -> float:
        """0 for a presence of 0 or 1, 1 for a presence of one half."""
        return 1 - abs(2 * self.presence - 1)

    @property
    def why(self) -> str:
        """The reasons to look, in words; empty where there is none."""
        reasons = [
            (self.uncertainty >= UNCERTAIN, f"uncertain, worst in slice {self.worst_slice}"),
            (self.doubt >= DOUBTFUL, f"presence {self.presence:.2f}"),
            (self.touches_border, "touches the border"),
        ]
        return "; ".join(text for holds, text in reasons if holds)


def confidence(result: Segmentation) -> Confidence:
    """Measure the confidence of a result."""
    axis = to_canonical(result.scan).axes[0]
    considered = result.mask | (result.probability >= CONSIDERED)
    bits = entropy_bits(result.probability[considered])
    at = np.nonzero(considered)[axis]
    per_slice = np.bincount(at, weights=bits, minlength=1)
    return Confidence(
        presence=round(float(result.presence), 4),
        uncertainty=round(float(bits.mean()), 4) if bits.size else 0.0,
        worst_slice=int(per_slice.argmax()) if bits.size else -1,
        slice_axis="IJK"[axis],
        touches_border=touches_border(result.mask),
    )


def entropy_bits(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Entropy of each probability, in bits: 0 at 0 and 1, 1 at one half."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    bits: NDArray[np.float64] = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return bits
