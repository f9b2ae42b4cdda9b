"""The released training's episodes: support and query are two adjacent slices of one scan.

A scan is drawn, then a class among those it shows, then a place where the class is in two neighboring slices
and covers enough of one of them; which of the two is the support is drawn, too. A class is a supervoxel, as
the paper says, or a labelled structure, as the released code has it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.errors import InputError
from latentseg.training.fewshot.released_augmentation import gamma, moved
from latentseg.training.pack import Pack, PackedScan

Supervision = Literal["supervoxels", "labels"]


class PairBatch(NamedTuple):
    """``B`` episodes of one support and one query slice.

    Attributes:
        support_images: ``(B, 1, S, S)`` in [-1, 1].
        query_images: Likewise.
        support_masks: ``(B, S, S)`` in {0, 1}.
        query_masks: Likewise.
    """

    support_images: Tensor
    query_images: Tensor
    support_masks: Tensor
    query_masks: Tensor


@dataclass(frozen=True)
class PairOptions:
    """How pairs are drawn.

    Attributes:
        supervision: Where classes come from.
        unseen: Names of labelled structures that are never shown.
        min_area: Fewest pixels of a class in the larger of the two slices.
        augment: Whether pairs are augmented as released.
    """

    supervision: Supervision = "supervoxels"
    unseen: tuple[str, ...] = ()
    min_area: int = 200
    augment: bool = True


class Pairs:
    """Draws adjacent pairs from the slices of a pack that a fold may be trained on.

    Args:
        packed: All scans of a data set.
        usable: By case, the canonical slices that may be shown; cases that are not named are never shown.
        options: See :class:`PairOptions`.

    Raises:
        InputError: The pack has no supervoxels, or no pair fits.
    """

    def __init__(self, packed: Pack, usable: Mapping[str, Collection[int]], options: PairOptions) -> None:
        maps = packed.supervoxels if options.supervision == "supervoxels" else packed.labels
        if maps is None:
            fix = "run the step `supervoxels` first"
            raise InputError("the pack has no supervoxels", where=str(packed.folder), fix=fix)
        self.packed, self.options = packed, options
        self.maps: NDArray[np.integer] = maps
        tables = [
            adjacent(maps, scan, usable=usable[scan.case], options=options)
            for scan in packed.scans
            if scan.case in usable
        ]
        self.places = [table for table in tables if table]
        if not self.places:
            what = f"no {options.supervision} of {options.min_area} pixels in two adjacent usable slices"
            fix = "lower `min_area`, or choose another setting or more scans"
            raise InputError(what, where=str(packed.folder), fix=fix)

    def draw(self, rng: np.random.Generator, count: int) -> PairBatch:
        """``count`` episodes; a function of the arguments alone."""
        rows = [self._pair(rng) for _ in range(count)]
        return PairBatch(*(torch.stack(part) for part in zip(*rows, strict=True)))

    def _pair(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        places = self.places[int(rng.integers(len(self.places)))]
        label = list(places)[int(rng.integers(len(places)))]
        first = places[label][int(rng.integers(len(places[label])))]
        sides = [self._slice(index, label) for index in (first, first + 1)]
        if rng.random() < 0.5:
            sides.reverse()
        if self.options.augment:
            side = int(rng.integers(2))
            sides[side] = moved(*sides[side], rng)
            side = int(rng.integers(2))
            sides[side] = gamma(sides[side][0], rng), sides[side][1]
        (support, support_mask), (query, query_mask) = sides
        return support, query, support_mask, query_mask

    def _slice(self, index: int, label: int) -> tuple[Tensor, Tensor]:
        image = torch.tensor(self.packed.images[index], dtype=torch.float32)[None] / 127.5 - 1
        return image, torch.tensor(self.maps[index] == label, dtype=torch.float32)


def adjacent(
    maps: NDArray[np.integer], scan: PackedScan, *, usable: Collection[int], options: PairOptions
) -> dict[int, list[int]]:
    """By class, the first slices of the pairs that may be shown, as positions in the pack."""
    hidden = {label for label, name in scan.labels.items() if name in options.unseen}
    hidden = hidden if options.supervision == "labels" else set()
    shown = sorted(set(usable) & set(range(scan.count)))
    areas = {n: np.bincount(maps[scan.first + n].ravel()) for n in shown}
    out: dict[int, list[int]] = {}
    for n in shown:
        if n + 1 in areas:
            for label in _in_both(areas[n], areas[n + 1], least=options.min_area):
                if label not in hidden:
                    out.setdefault(label, []).append(scan.first + n)
    return out


def _in_both(one: NDArray[np.intp], other: NDArray[np.intp], *, least: int) -> Sequence[int]:
    """Ids from 1 upwards that both slices hold and that cover enough of one."""
    size = min(len(one), len(other))
    a, b = one[1:size], other[1:size]
    found: list[int] = (1 + np.flatnonzero((a > 0) & (b > 0) & (np.maximum(a, b) >= least))).tolist()
    return found
