"""Which parts of a map are tumors, by their shape in three dimensions: vessels run on, nodules are compact.

Ours, not the paper's. A slice shows a vessel or a fissure that crosses it as a round spot, which looks like a
nodule there and not in its neighbors. Connected pieces of a map at a low threshold, each cut at half of its
own peak, are judged by a logistic regression of what the map says in them, of their size and shape, of what
they touch, and of where in the organ they lie; lengths are in mm. It is fitted to planted lesions
(``benchmarks/lung_parts.py``) and kept in the file of the networks whose maps it judges.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.methods.log_odds import LIMIT, probability
from latentseg.methods.log_odds import log_odds as logits

FEATURES = (
    "log of the volume in mm3",
    "mean log-odds",
    "highest log-odds",
    "log of the length across slices by the width within one",
    "log of the longest by the middle axis",
    "log of the middle by the shortest axis",
    "log of the radius of the largest disc within by that of a disc of the same area",
    "share of what surrounds it in its slices that is solid",
    "share of it that is solid",
    "solid beyond its first and last slice by its area there",
    "grey value above that within 4 mm",
    "depth in the organ in cm",
    "distance from the middle of the organ by half of its width",
)
LOW, HIGHEST = (
    0.1,
    0.5,
)  # probabilities from which a voxel may belong to a part, and at which a part is cut at most
FEWEST = 4  # slices, below which nothing is known of a shape across them
AROUND_MM, MARGIN_MM = 4.0, 6.0
TOUCHING, IN_SLICE = np.ones((3, 3, 3)), np.ones((1, 3, 3))
Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Shown(NamedTuple):
    """What is known of a scan in which parts are judged, all ``(S, H, W)``.

    Attributes:
        log_odds: Of the map, before anything is cut.
        images: Slices in [-1, 1].
        organ: Where it is, with what it encloses.
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


class Judged(NamedTuple):
    """Parts after they were judged.

    Attributes:
        log_odds: The map, ``(S, H, W)``, 0 where each part that is kept is cut, far below in all others.
        chance: ``(S, H, W)``, of the part that a voxel belongs to, 0 elsewhere.
    """

    log_odds: Values
    chance: Values


@dataclass(frozen=True)
class PartJudge:
    """A logistic regression of :data:`FEATURES`.

    Attributes:
        mean: Of each feature in the training.
        scale: Their standard deviations.
        weight: Of each feature in these units.
        bias: Log-odds of a part of mean features.

    Example:
        >>> PartJudge.from_json(facts["parts"]).of(shown, slices=suspicious, least=0.5).chance.max()
        0.93
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float

    @classmethod
    def from_json(cls, text: str) -> PartJudge:
        """Read what :meth:`to_json` wrote.

        Raises:
            KeyError: Something is missing.
            ValueError: Not as many numbers as there are features.
        """
        facts = json.loads(text)
        mean, scale, weight = (tuple(facts[name]) for name in ("mean", "scale", "weight"))
        if {len(mean), len(scale), len(weight)} != {len(FEATURES)}:
            raise ValueError(f"a judge of parts has {len(FEATURES)} features")
        return cls(mean, scale, weight, facts["bias"])

    def to_json(self) -> str:
        """As stored in the facts of weights."""
        return json.dumps(asdict(self))

    def chance(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Chance ``(N,)`` of parts with features ``(N, F)`` to be tumors."""
        logit = (features - np.array(self.mean)) / np.array(self.scale) @ np.array(self.weight) + self.bias
        return np.asarray(1 / (1 + np.exp(-logit)))

    def of(self, shown: Shown, *, slices: NDArray[np.intp], least: float) -> Judged:
        """Judge the parts of a map.

        Args:
            shown: See there.
            slices: Numbers of those in which parts may lie.
            least: Chance below which a part is let go.
        """
        pieces, levels = pieces_of(shown.log_odds, slices)
        moved = shown.log_odds - levels[pieces]
        parts, count = ndimage.label((pieces > 0) & (moved >= 0), TOUCHING)
        chances = np.r_[0.0, self.chance(features_of(parts, count, shown))]
        moved[(parts > 0) & (chances[parts] < least)] = -LIMIT
        return Judged(moved, chances[parts].astype(np.float32))


def pieces_of(log_odds: Values, slices: NDArray[np.intp]) -> tuple[NDArray[np.int32], Values]:
    """Pieces of a map ``(S, H, W)``, numbered from 1, and log-odds at which each is cut, of none first."""
    chance = np.zeros(log_odds.shape, np.float32)
    chance[slices] = probability(log_odds[slices])
    pieces, count = ndimage.label(chance >= LOW, TOUCHING)
    peaks = np.asarray(ndimage.maximum(chance, pieces, range(1, count + 1)) if count else [])
    return pieces, np.r_[np.float32(0), logits((peaks / 2).clip(LOW, HIGHEST).astype(np.float32))]


def features_of(parts: NDArray[np.int32], count: int, shown: Shown) -> NDArray[np.float64]:
    """:data:`FEATURES` of parts that are numbered from 1, ``(count, F)``."""
    depth = ndimage.distance_transform_edt(np.pad(shown.organ, ((1, 1), (0, 0), (0, 0))), shown.spacing_mm)[
        1:-1
    ]
    columns = np.flatnonzero(shown.organ.any((0, 1)))
    sides = (columns[0], columns[-1]) if len(columns) else (0, parts.shape[2] - 1)
    margin = max(int(np.ceil(MARGIN_MM / shown.spacing_mm[1])), 2)
    rows = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        wide = tuple(
            slice(max(side.start - pad, 0), side.stop + pad)
            for side, pad in zip(box, (1, margin, margin), strict=True)
        )
        part, near = parts[wide] == number, shown.within(wide)
        column = np.nonzero(part)[2].mean() + wide[2].start
        place = (depth[wide][part].mean() / 10, abs(2 * column - sum(sides)) / (sides[1] - sides[0] + 1))
        log_odds = near.log_odds[part]
        rows.append(
            (
                np.log(part.sum() * np.prod(shown.spacing_mm)),
                log_odds.mean(),
                log_odds.max(),
                *shape_of(part, shown.spacing_mm),
                *surroundings_of(part, near),
                *place,
            )
        )
    return np.array(rows, float).reshape(count, len(FEATURES))


def shape_of(part: Mask, spacing_mm: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Length by width, axes of the second moments by each other, and roundness of the shadow of a part."""
    step, pixel = spacing_mm[:2]
    points = np.argwhere(part) * np.array(spacing_mm)
    spread = np.atleast_2d(np.cov(points.T, bias=True)) if len(points) > 1 else np.zeros((3, 3))
    short, middle, long = np.linalg.eigvalsh(spread + np.diag(np.square(spacing_mm) / 12)) ** 0.5
    radius = pixel * np.sqrt(part.sum((1, 2)).max() / np.pi)
    shadow = np.pad(part.any(0), 1)
    disc = pixel * ndimage.distance_transform_edt(shadow).max()
    length = step * part.any((1, 2)).sum()
    return (
        np.log(length / (2 * radius + pixel)),
        np.log(long / middle),
        np.log(middle / short),
        np.log(disc / radius),
    )


def surroundings_of(part: Mask, near: Shown) -> tuple[float, float, float, float]:
    """How solid a shell in its slices is, the part itself, and what goes on beyond; and its contrast."""
    shell = ndimage.binary_dilation(part, IN_SLICE) & ~part
    around = (ndimage.distance_transform_edt(~part, near.spacing_mm) <= AROUND_MM) & ~part
    used = np.flatnonzero(part.any((1, 2)))
    beyond = [
        (near.solid[outer] & ndimage.binary_dilation(part[edge])).sum() / part[edge].sum()
        for outer, edge in ((used[0] - 1, used[0]), (used[-1] + 1, used[-1]))
        if 0 <= outer < len(part)
    ]
    contrast = near.images[part].mean() - near.images[around].mean()
    runs_on = min(float(np.mean(beyond)), 2.0) if beyond else 0.0
    return float(near.solid[shell].mean()), float(near.solid[part].mean()), runs_on, float(contrast)
