"""What is measured of the parts of a map by which they are judged, in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FEATURES = (
    "log of the volume in mm3",
    "mean log-odds",
    "highest log-odds",
    "log of the length across slices by the width within one",
    "log of the longest by the middle axis",
    "log of the middle by the shortest axis",
    "share of what surrounds it in its slices that is solid",
    "share of what surrounds it that is no air",
    "share of it that is solid",
    "solid beyond its first and last slice by its area there",
    "grey value above that within 4 mm",
    "spread of its grey values",
    "depth in the organ in cm",
)
AROUND_MM, MARGIN_MM = 4.0, 6.0
IN_SLICE = np.ones((1, 3, 3))
AIRLESS = -0.62  # in the lung window, grey of ground glass (-734 HU)
Mask = NDArray[np.bool_]
Box = tuple[slice, ...]
Values = NDArray[np.float32]


class Part(NamedTuple):
    """A piece of a scan.

    Attributes:
        box: Slices, rows and columns in which it lies.
        mask: Which voxels of the box it is.
    """

    box: Box
    mask: Mask


class Shown(NamedTuple):
    """What is known of a scan in which parts are judged, all ``(S, H, W)``.

    Attributes:
        log_odds: Of the map, before anything is cut.
        images: Slices in [-1, 1].
        organ: Where it is, with what it encloses and notches of it.
        solid: What is as dense as tissue in it.
        spacing_mm: Of slices, rows and columns.
    """

    log_odds: Values
    images: Values
    organ: Mask
    solid: Mask
    spacing_mm: tuple[float, float, float]

    def within(self, box: tuple[slice, ...]) -> Shown:
        """The same of a box."""
        return Shown(self.log_odds[box], self.images[box], self.organ[box], self.solid[box], self.spacing_mm)


def features_of(parts: Sequence[Part], shown: Shown) -> NDArray[np.float64]:
    """:data:`FEATURES` of parts, ``(N, F)``."""
    organ = np.pad(shown.organ, ((1, 1), (0, 0), (0, 0)))
    depth = ndimage.distance_transform_edt(organ, shown.spacing_mm)[1:-1]
    margin = max(int(np.ceil(MARGIN_MM / shown.spacing_mm[1])), 2)
    rows = []
    for box, mask in parts:
        wide = tuple(
            slice(max(side.start - pad, 0), side.stop + pad)
            for side, pad in zip(box, (1, margin, margin), strict=True)
        )
        near = shown.within(wide)
        part = np.zeros(near.images.shape, bool)
        part[tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))] = mask
        log_odds = near.log_odds[part]
        rows.append(
            (
                np.log(part.sum() * np.prod(shown.spacing_mm)),
                log_odds.mean(),
                log_odds.max(),
                *shape_of(part, shown.spacing_mm),
                *surroundings_of(part, near),
                near.images[part].std(),
                depth[wide][part].mean() / 10,
            )
        )
    return np.array(rows, float).reshape(len(parts), len(FEATURES))


def shape_of(part: Mask, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Length by width, and axes of the second moments by each other."""
    step, pixel = spacing_mm[:2]
    points = np.argwhere(part) * np.array(spacing_mm)
    spread = np.atleast_2d(np.cov(points.T, bias=True)) if len(points) > 1 else np.zeros((3, 3))
    short, middle, long = np.linalg.eigvalsh(spread + np.diag(np.square(spacing_mm) / 12)) ** 0.5
    radius = pixel * np.sqrt(part.sum((1, 2)).max() / np.pi)
    length = step * part.any((1, 2)).sum()
    return np.log(length / (2 * radius + pixel)), np.log(long / middle), np.log(middle / short)


def surroundings_of(part: Mask, near: Shown) -> tuple[float, float, float, float, float]:
    """How solid it is around a part in its slices, how airless all around, how solid in it, and beyond."""
    shell = ndimage.binary_dilation(part, IN_SLICE) & ~part
    surface = ndimage.binary_dilation(part) & ~part
    around = (ndimage.distance_transform_edt(~part, near.spacing_mm) <= AROUND_MM) & ~part
    used = np.flatnonzero(part.any((1, 2)))
    beyond = [
        (near.solid[outer] & ndimage.binary_dilation(part[edge])).sum() / part[edge].sum()
        for outer, edge in ((used[0] - 1, used[0]), (used[-1] + 1, used[-1]))
        if 0 <= outer < len(part)
    ]
    airless = mean_of(near.images[surface] > AIRLESS, otherwise=1.0)
    own = float(near.images[part].mean())
    contrast = own - mean_of(near.images[around], otherwise=own)
    runs_on = min(float(np.mean(beyond)), 2.0) if beyond else 0.0
    solid = mean_of(near.solid[shell], otherwise=1.0)
    return solid, airless, float(near.solid[part].mean()), runs_on, contrast


def mean_of(values: NDArray[np.generic], *, otherwise: float) -> float:
    """The mean of what surrounds a part; another value where the part fills all that is seen of a scan."""
    return float(values.mean()) if values.size else otherwise
