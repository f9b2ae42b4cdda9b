"""Which parts of a map are tumors, by their shape in three dimensions: vessels run on, nodules are compact.

Ours, not the paper's. A slice shows a vessel or a fissure that crosses it as a round spot, which looks like a
nodule there and not in its neighbors. Connected pieces of a map at a low threshold, each cut at half of its
own peak, are judged by a logistic regression of what the map says in them, of their size and shape, of what
they touch, and of where in the organ they lie; lengths are in mm. Of those that lie close together the surest
counts. It is fitted to lesions that were put into chests (``benchmarks/lung_parts.py``) and kept in the file
of the networks whose maps it judges.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.methods.log_odds import LIMIT, probability
from latentseg.methods.log_odds import log_odds as logits
from latentseg.methods.tumor.part_features import FEATURES, Box, Part, Shown, Values, features_of

LOW, HIGHEST = 0.1, 0.5  # probability from which a voxel may be of a part, and at which one is cut at most
APART_MM = 10.0  # from a surer part, nearer than which a part is of the same thing
FEWEST = 4  # slices, below which nothing is known of a shape across them
TOUCHING = np.ones((3, 3, 3))


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
        moved, parts = marked_parts(shown.log_odds, slices)
        chances = self.chance(features_of(parts, shown))
        surest = np.zeros(moved.shape, np.float32)
        for number in apart(parts, chances, shape=moved.shape, spacing_mm=shown.spacing_mm):
            box, mask = parts[number]
            surest[box][mask] = chances[number]
        moved[(moved >= 0) & (surest < least)] = -LIMIT
        return Judged(moved, surest)


def apart(
    parts: Sequence[Part],
    chances: NDArray[np.float64],
    *,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
) -> Iterator[int]:
    """Numbers of the parts that lie ``APART_MM`` and more from every surer one, the surest first."""
    taken = np.zeros(shape, bool)
    for number in np.argsort(-chances, kind="stable"):
        box, mask = parts[number]
        if taken[box][mask].any():
            continue
        yield int(number)
        around = widened(box, shape, APART_MM, spacing_mm)
        own = tuple(
            slice(one.start - wide.start, one.stop - wide.start)
            for one, wide in zip(box, around, strict=True)
        )
        inside = np.zeros([side.stop - side.start for side in around], bool)
        inside[own] = mask
        taken[around] |= ndimage.distance_transform_edt(~inside, sampling=spacing_mm) < APART_MM


def marked_parts(log_odds: Values, slices: NDArray[np.intp]) -> tuple[Values, list[Part]]:
    """A map ``(S, H, W)`` moved so that its pieces in some slices are cut at 0, and what is above in them."""
    pieces, levels = pieces_of(log_odds, slices)
    moved = log_odds - levels[pieces]
    parts = ndimage.label((pieces > 0) & (moved >= 0), TOUCHING)[0]
    boxes = enumerate(ndimage.find_objects(parts), start=1)
    return moved, [Part(box, parts[box] == number) for number, box in boxes]


def pieces_of(log_odds: Values, slices: NDArray[np.intp]) -> tuple[NDArray[np.int32], Values]:
    """Pieces of a map ``(S, H, W)``, numbered from 1, and log-odds at which each is cut, of none first."""
    chance = np.zeros(log_odds.shape, np.float32)
    chance[slices] = probability(log_odds[slices])
    pieces, count = ndimage.label(chance >= LOW, TOUCHING)
    peaks = np.asarray(ndimage.maximum(chance, pieces, range(1, count + 1)) if count else [])
    return pieces, np.r_[np.float32(0), logits((peaks / 2).clip(LOW, HIGHEST).astype(np.float32))]


def widened(
    box: Box, shape: tuple[int, ...], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> Box:
    """A box with a margin of a radius, within a shape."""
    pads = [int(radius_mm / step) + 1 for step in spacing_mm]
    return tuple(
        slice(max(side.start - pad, 0), min(side.stop + pad, edge))
        for side, pad, edge in zip(box, pads, shape, strict=True)
    )
