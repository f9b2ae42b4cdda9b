"""Matching in 3-D: every cell of an example's whole scan is a reference, and all slices are searched.

Not in SD-FSMIS, whose protocols give slices that are known to hold the organ. Without any training:

1. The scan is laid on the example's, by a scale and a shift along each axis (:mod:`.alignment`).
2. Every cell of it is compared with the cells of the target and with those of everything else, near ones more
   than far ones (:mod:`.cell_margins`). Where the target can be is a matter of degree.
3. The same once more, with the target itself laid on what was found (:mod:`.local_placement`).

With several examples the margins are averaged, weighted by how well each example's scan fits this one: the
fit is known without any label, and a poor example must not spoil a good one. A scan that fits none of them
shows another part of the body, and the target is absent; so is one of which nothing in the scan resembles it
enough (:mod:`.target_evidence`). Results that nobody has looked at may be examples, too
(:meth:`.Support.with_found`); those marked by hand come first. In a scan that is an example itself the target
is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from latentseg.methods.fewshot.body_place import gap_mm
from latentseg.methods.fewshot.cell_margins import Pair, Placed, joint_margin, weights_of
from latentseg.methods.fewshot.cells import ScanCells, on_slices
from latentseg.methods.fewshot.local_placement import moved
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Placement, Search, Tensors
from latentseg.methods.fewshot.scan_cells import KEPT, CellsOfScans, digest
from latentseg.methods.fewshot.target_evidence import (
    ELSEWHERE,
    UNLIKE,
    WIDTH,
    looks,
    rises,
    surest_margin,
)
from latentseg.methods.fewshot.volume_example import VolumeExample
from latentseg.methods.last_used import LastUsed

FIT_WIDTH = 0.002  # of the fit, over which the presence falls
ALIKE = (0.64, 0.68)  # mean cosine of two scans: of a CT and an MR at most, of one modality at least


@dataclass(frozen=True)
class VolumeOptions:
    """How a volume is searched.

    Attributes:
        pull_mm: Distance in the example's frame that costs a cosine of 1.
        second_pull_mm: The same in the second search, around what the first one found; None for no second.
        vote: Logits per unit of margin.
        level: Share of the surest margin that a cell of the target has at least. It is asked for where the
            scans are as alike as those of one modality; between contrasts all margins are smaller.
        examples: Most examples that a scan is compared with, the best fitting ones.
        trust: Power of the fit by which examples are weighted.
        least_fit: Fit of the best example below which the scan shows another part of the body.
        least_fit_in_place: The same where the scan is no farther than ``near_mm`` from the heights of the
            body that hold the target: scans of other contrasts fit less.
        near_mm: See there; heights are read from MR with an error of about so much.
        farthest_mm: Between those heights and the scan, above which no fit helps.
        least_evidence: Score below which what was found is not the target, see :mod:`.target_evidence`.
        small: Cells of a target that is small, and of one that is not any more.
        small_pull_mm: What ``second_pull_mm`` is for a small target, whose ``level`` is 0.
    """

    pull_mm: float = 250.0
    second_pull_mm: float | None = 170.0
    vote: float = 20.0
    level: float = 0.1
    examples: int = 5
    trust: float = 2.0
    least_fit: float = 0.06
    least_fit_in_place: float = 0.035
    near_mm: float = 70.0
    farthest_mm: float = 150.0
    least_evidence: float = -0.028
    small: tuple[float, float] = (110, 140)
    small_pull_mm: float = 80.0

    def smallness(self, cells: float) -> float:
        """From 1, of a small target, to 0."""
        return float(np.interp(cells, self.small, (1, 0)))

    def least_fit_at(self, gap_mm: float) -> float:
        """The fit that is asked for, where heights of scan and target are so far apart; NaN says nothing."""
        if gap_mm > self.farthest_mm:
            return math.inf
        return self.least_fit_in_place if gap_mm <= self.near_mm else self.least_fit


class VolumeMatching(Part):
    """Searches a whole scan with the whole scans of the examples.

    Args:
        features: Of the cells.
        options: See there.
    """

    name = "volume matching"

    def __init__(self, features: MatchingFeatures, options: VolumeOptions | None = None) -> None:
        self.options = options or VolumeOptions()
        self.cells = CellsOfScans(features)
        self._placed: LastUsed[tuple[ScanCells, Placed]] = LastUsed(KEPT)

    def get_ready(self, scan: EncodedScan) -> None:
        """Describe the cells of a scan."""
        at, along_mm, side_mm = scan.described()
        self.cells(scan.images[at], along_mm=along_mm, side_mm=side_mm)

    def of_support(self, examples: Examples) -> Tensors:
        """The references of each scan of the support, under its number."""
        self.cells.grow(len(examples.scans) + 1)  # and the scan that is searched
        tensors: Tensors = {}
        for scan in examples.scans:
            images, along_mm = torch.from_numpy(scan.images)[:, None], torch.from_numpy(scan.places_mm)
            cells = self.cells(images, along_mm=along_mm, side_mm=scan.side_mm)
            example = VolumeExample.of(scan, cells)
            number = len(tensors) // len(fields(VolumeExample))
            tensors |= {f"{number}/{name}": t for name, t in vars(example).items()} if example else {}
        return tensors

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Set the log-odds of all slices, and how far the scan shows what the examples show."""
        if not support:
            return search
        at, along_mm, side_mm = scan.described()
        cells = self.cells(scan.images[at], along_mm=along_mm, side_mm=side_mm)
        examples = examples_of(support, cells.features.device)
        self._placed.grow(len(examples))
        pairs = [(example, self.placed(cells, example)) for example in examples]
        fit = max(placed.alignment.fit for example, placed in pairs if not example.found)
        margins, score, placements = self.searched(cells, pairs)
        log_odds = self.options.vote * on_slices(margins.cpu(), at, search.log_odds.shape)
        gap = gap_mm(cells.height_mm, *(example.height_mm.cpu() for example in examples))
        shown = rises(fit - self.options.least_fit_at(gap), FIT_WIDTH)
        likely = rises(score - self.options.least_evidence, WIDTH)
        if is_own(placements):
            shown = likely = 1.0
        reason = ELSEWHERE if shown < 0.5 else UNLIKE if likely < 0.5 else ""
        return replace(
            search,
            log_odds=search.log_odds + log_odds,
            in_view=search.in_view * shown,
            likely=likely,
            reason=reason,
            placements=placements,
        )

    def placed(self, cells: ScanCells, example: VolumeExample) -> Placed:
        """The scan laid on an example, once for all targets that are shown in the same one."""
        key = (id(cells), digest(example.mean, example.sample, example.sample_mm))
        return self._placed.of(key, lambda: (cells, Placed.of(cells, example)))[1]

    def searched(
        self, cells: ScanCells, pairs: Sequence[Pair]
    ) -> tuple[Tensor, float, tuple[Placement, ...]]:
        """By the best fitting examples: margin ``(S, h, w)``, what speaks for the target, and placements."""
        options = self.options
        best = order_of(pairs)[: options.examples]
        chosen = [pairs[n] for n in best]
        weights = weights_of(chosen, options.trust)
        small = options.smallness(float(np.dot(weights, [example.cells for example, _ in chosen])))
        margins, pull_mm = joint_margin(cells, chosen, weights, pull_mm=options.pull_mm), options.pull_mm
        if options.second_pull_mm:
            pull_mm = small * options.small_pull_mm + (1 - small) * options.second_pull_mm
            chosen = [(example, moved(placed, example, cells, margins)) for example, placed in chosen]
            margins = joint_margin(cells, chosen, weights, pull_mm=pull_mm)
        own = margins[cells.body]
        scores = [looks(*pair, cells, margins) for pair in chosen]
        alike = float(np.dot(weights, [placed.alignment.alike for _, placed in chosen]))
        level = options.level * (1 - small) * surest_margin(own) * float(np.interp(alike, ALIKE, (0, 1)))
        placements = [
            Placement(n, pair[1].alignment, float(w))
            for n, pair, w in zip(best, chosen, weights, strict=True)
        ]
        return margins - level, float(np.dot(weights, scores)), tuple(placements)


def order_of(pairs: Sequence[Pair]) -> list[int]:
    """Numbers of the examples, the best fitting ones of those marked by hand first, then of those found.

    What was found in the scan itself is left out.
    """
    usable = [
        n for n, (example, placed) in enumerate(pairs) if not (example.found and placed.alignment.is_own)
    ]
    return sorted(usable, key=lambda n: (bool(pairs[n][0].found), -pairs[n][1].alignment.fit))


def is_own(placements: Sequence[Placement]) -> bool:
    """Whether somebody marked the target in this scan: it is one of the examples."""
    return any(one.alignment.is_own for one in placements)


def examples_of(support: Tensors, device: torch.device) -> list[VolumeExample]:
    """The references, as :meth:`VolumeMatching.of_support` named them."""
    numbers = sorted({name.split("/")[0] for name in support}, key=int)
    names = [field.name for field in fields(VolumeExample)]
    return [VolumeExample(*(support[f"{n}/{name}"].to(device) for name in names)) for n in numbers]
