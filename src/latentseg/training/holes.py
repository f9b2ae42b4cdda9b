"""Holes in healthy tissue, shaped as lesions are: what a denoiser learns to fill by filling them.

What it is shown around a hole is the slice with the hole filled smoothly and then encoded, as
:mod:`latentseg.methods.diffugts.refinement` does with a lesion. The latents of the whole slice would not do:
the encoder sees farther than a cell, so what is in the hole would shine into the cells around it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import ndimage

Mask = NDArray[np.bool_]

BODY = 12  # of 255; air is darker
COARSE = 8  # pixels of a square of the noise that bends a hole's border
TRIES = 6
SMALLEST = 30  # pixels of a hole


class HoleOptions(BaseModel, extra="forbid", frozen=True):
    """How holes are drawn.

    Attributes:
        share: Of the slices that get holes, in data sets that may have them.
        healthy: Data sets whose tissue is healthy but for labelled findings; no others get holes.
        radius: Smallest and largest radius in pixels.
        most: Holes in a slice, at most.
        organs: Share of the holes that lie in a labelled organ, where there is one.
        clearance: Pixels that a hole stays away from labelled findings.
        kept: Holes of an augmented copy of a slice; each is encoded once.
    """

    share: float = Field(0.5, ge=0, le=1)
    healthy: tuple[str, ...] = ()
    radius: tuple[float, float] = (4.0, 36.0)
    most: int = Field(3, gt=0)
    organs: float = 0.7
    clearance: int = 6
    kept: int = Field(2, gt=0)


class Hole(NamedTuple):
    """The part of a slice ``(H, W)`` that is taken away, and the label its middle lies in (0 for none)."""

    mask: Mask
    label: int


def draw_hole(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
    options: HoleOptions,
    *,
    organs: tuple[int, ...],
    findings: tuple[int, ...],
) -> Hole | None:
    """Draw a hole, or several, into a slice.

    Args:
        image: ``(H, W)``, air near 0.
        labels: ``(H, W)``.
        rng: Source of all draws.
        options: Ranges.
        organs: Labels of organs.
        findings: Labels of lesions.

    Returns:
        Nothing where there is no healthy tissue.
    """
    ill = np.isin(labels, findings)
    if ill.any() and options.clearance:
        ill = ndimage.binary_dilation(ill, iterations=options.clearance)
    body = ndimage.binary_fill_holes(ndimage.uniform_filter(image, 3) > BODY) & ~ill
    mask, label = np.zeros(image.shape, bool), 0
    for _ in range(int(rng.integers(1, options.most + 1))):
        place, host = _place(labels, body, rng, options.organs, organs)
        for _ in range(TRIES if place.any() else 0):
            found = _blob(place, rng, options.radius) & ~ill
            if found.sum() >= SMALLEST:
                mask, label = mask | found, label or host
                break
    return Hole(mask, label) if mask.any() else None


def _place(
    labels: NDArray[np.uint8], body: Mask, rng: np.random.Generator, share: float, organs: tuple[int, ...]
) -> tuple[Mask, int]:
    """Where the middle of a hole may lie, and the label of that place."""
    present = [label for label in np.unique(labels[body]) if label in organs]
    if present and rng.random() < share:
        label = int(rng.choice(present))
        return (labels == label) & body, label
    return body, 0


def _blob(place: Mask, rng: np.random.Generator, radii: tuple[float, float]) -> Mask:
    """A turned ellipse around a random pixel of a place, its border moved by smooth noise."""
    rows, columns = np.nonzero(place)
    at = int(rng.integers(len(rows)))
    radius = np.exp(rng.uniform(*np.log(radii)))
    angle, ratio = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    y, x = np.indices(place.shape, dtype=np.float32)
    y, x = y - rows[at], x - columns[at]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    coarse = rng.normal(0, 0.25, [edge // COARSE + 3 for edge in place.shape])
    bumps = ndimage.zoom(coarse, COARSE, order=1)[: place.shape[0], : place.shape[1]]
    return np.asarray(np.hypot(along, across / ratio) < radius * np.exp(bumps))
