"""Refinement of a mask by the intensities of the scan, after the network.

The output of the network has a resolution of 8 pixels and does not know the contrast of the scan at hand. Two
steps without training use the full resolution and the contrast of this scan, on all of its slices together:

1. **Appearance.** Histograms of the confident foreground and of what surrounds it give a likelihood ratio for
   every grey value, which is added to the network's logits (as in Grab Cut, Rother et al. 2004, without its
   graph).
2. **Guided filter** (He et al. 2013): the probability follows the edges of the image.

Components that are small compared with the largest one are then removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentseg.methods.log_odds import log_odds, probability

Slices = NDArray[np.float32]


@dataclass(frozen=True)
class AppearanceOptions:
    """How masks are refined.

    Attributes:
        weight: Of the appearance beside the network; 0 leaves it out.
        reach: Pixels around what is proposed that may change, and whose histogram is the background's.
        confident: Probability above which a pixel is taken for foreground.
        doubtful: Probability below which one is taken for background.
        fewest: Confident pixels without which there is no histogram.
        bins: Of the histograms.
        radius: Of the guided filter, in pixels; 0 leaves it out.
        edges: Variance, on the scale of [-1, 1], below which the filter smooths.
        keep: Size of a part relative to the largest, below which it is let go.
    """

    weight: float = 1.0
    reach: int = 10
    confident: float = 0.6
    doubtful: float = 0.3
    fewest: int = 50
    bins: int = 32
    radius: int = 4
    edges: float = 0.01
    keep: float = 0.3


def refine(images: Slices, chance: Slices, *, options: AppearanceOptions | None = None) -> Slices:
    """Refine the probability ``(S, H, W)`` of slices ``(S, H, W)`` in [-1, 1] of one scan."""
    options = options or AppearanceOptions()
    box = around(chance > 0.1, options.reach + options.radius)
    if box is None:
        return chance
    out = chance.copy()
    seen, found = images[box], chance[box]
    found = with_appearance(seen, found, options)
    if options.radius:
        found = guided(seen, found, radius=options.radius, edges=options.edges)
    out[box] = without_small_parts(found.clip(0, 1), keep=options.keep)
    return out


def with_appearance(images: Slices, chance: Slices, options: AppearanceOptions) -> Slices:
    """Add the log likelihood ratio of the grey values to the logits, near what is proposed."""
    from scipy import ndimage

    sure = chance > options.confident
    if options.weight == 0 or np.count_nonzero(sure) < options.fewest:
        return chance
    edge = (1, 2 * options.reach + 1, 2 * options.reach + 1)
    near = ndimage.maximum_filter(chance > 0.4, edge)
    beside = near & (chance < options.doubtful)
    levels = ((images + 1) * (options.bins / 2)).astype(int).clip(0, options.bins - 1)
    ratio = log_histogram(levels[sure], options.bins) - log_histogram(levels[beside], options.bins)
    both = log_odds(chance) + np.float32(options.weight) * ratio.clip(-3, 3).astype(np.float32)[levels]
    return np.where(near, probability(both), chance)


def log_histogram(levels: NDArray[np.integer], bins: int) -> NDArray[np.float64]:
    """Log of a smooth histogram that is nowhere 0."""
    from scipy import ndimage

    counts = ndimage.gaussian_filter1d(np.bincount(levels, minlength=bins).astype(float), 1.5)
    share = (counts + 1e-3) / (counts.sum() + 1e-3 * bins)
    return np.asarray(np.log(share + 1e-3 / bins))


def guided(images: Slices, chance: Slices, *, radius: int, edges: float) -> Slices:
    """Guided filter of each slice, the image as guide."""
    from scipy import ndimage

    def mean(values: Slices) -> Slices:
        return np.asarray(ndimage.uniform_filter(values, (0, 2 * radius + 1, 2 * radius + 1)), np.float32)

    mean_image, mean_chance = mean(images), mean(chance)
    covariance = mean(images * chance) - mean_image * mean_chance
    slope = covariance / (mean(images * images) - mean_image**2 + edges)
    return mean(slope) * images + mean(mean_chance - slope * mean_image)


def without_small_parts(chance: Slices, *, keep: float) -> Slices:
    """The probability with parts above 0.5 (26-connected) pushed below it where they are small."""
    from scipy import ndimage

    labels, count = ndimage.label(chance >= 0.5, np.ones((3, 3, 3)))
    if count < 2:
        return chance
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    small = (sizes < keep * sizes.max()) & (sizes > 0)
    return np.where(small[labels], np.minimum(chance, 0.49), chance).astype(np.float32)


def around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice] | None:
    """Box of a mask ``(S, H, W)``, wider by a margin in the plane; None of an empty one."""
    if not mask.any():
        return None
    held = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    rows, columns = (
        slice(max(int(at[0]) - margin, 0), int(at[-1]) + margin + 1) for at in (held[1], held[2])
    )
    return slice(int(held[0][0]), int(held[0][-1]) + 1), rows, columns
