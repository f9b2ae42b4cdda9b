"""The simplest way to find a glioma on FLAIR: the largest bright part of the brain.

Usage: ``python benchmarks/bright_flair.py [--output FILE]``, on the heads that ``lower_grade_heads.py``
makes. A pixel is bright from a multiple of the median of the brain on, which is chosen where heads are kept
for choices; Dice is the mean over those that ``tumor_volumes.py --finding lower-grade-flair`` measures. The
brain is taken to begin 20 mm below the skin. Something is always marked, in people without a tumor too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.imaging.components import large_in_volume
from latentseg.metrics.overlap import dice
from tumor_volumes import whole_heads

BRIGHT = (1.1, 1.2, 1.25, 1.3, 1.35, 1.4, 1.5, 1.6)
SKIN_MM, BACKGROUND, SOFT = 20.0, 0.15, 1.0
FLAT = np.ones((3, 3, 1), bool)  # in the plane of a slice
Mask, Values = NDArray[np.bool_], NDArray[np.float64]


def brains(use: str) -> Iterator[tuple[Values, Mask, Mask]]:
    """Smoothed heads as multiples of the median of their brains, the brains, and the outlined tumors."""
    for scan in whole_heads("lower_grade", "flair", use=use):
        values = scan.image.array.astype(np.float64)
        head = ndimage.binary_opening(values > BACKGROUND * np.percentile(values, 99), FLAT, 2)
        deep = round(SKIN_MM / scan.image.spacing_mm[0])
        slices = [ndimage.binary_erosion(ndimage.binary_fill_holes(s), iterations=deep) for s in head.T]
        brain = np.stack(slices).T
        smooth = ndimage.gaussian_filter(values, (SOFT, SOFT, SOFT / 2))
        yield smooth / np.median(smooth[brain]), brain, np.asarray(scan.truth)


def brightest(values: Values, brain: Mask, level: float) -> Mask:
    """The largest part of a brain above a level."""
    return large_in_volume(ndimage.binary_opening((values > level) & brain, FLAT, 2), fraction=1.0)


def mean_dice(heads: list[tuple[Values, Mask, Mask]], level: float) -> float:
    """Of what is marked from a level on."""
    return float(np.mean([dice(brightest(values, brain, level), truth) for values, brain, truth in heads]))


def main() -> None:
    """Choose, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/bright_flair.json"))
    options = parser.parse_args()
    chosen = list(brains("choice"))
    scores = {level: mean_dice(chosen, level) for level in BRIGHT}
    level = max(scores, key=lambda one: scores[one])
    kept = list(brains("evaluation"))
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "level": level,
        "choice": {str(one): round(score, 4) for one, score in scores.items()},
        "scans": len(kept),
        "dice": round(mean_dice(kept, level), 4),
    }
    options.output.write_text(json.dumps(result) + "\n", encoding="utf-8")
    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    main()
