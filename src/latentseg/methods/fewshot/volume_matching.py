"""Matching in 3-D: every cell of an example's whole scan is a reference, and all slices are searched.

Not in SD-FSMIS, whose protocols give slices that are known to hold the organ. Without any training:

1. The scan is laid on the example's, by a scale and a shift along each axis (:mod:`.alignment`).
2. Every cell of it is compared with the cells of the target and with those of everything else, near ones more
   than far ones (:mod:`.cell_margins`). Where the target can be is a matter of degree.
3. The same once more, with the target itself laid on what was found (:mod:`.local_placement`).

With several examples the margins are averaged, weighted by how well each example's scan fits this one: the
fit is known without any label, and a poor example must not spoil a good one. A scan that fits none of them
shows another part of the body, and the target is absent; so is one of which nothing in the scan resembles it
enough (:mod:`.target_evidence`). In a scan that is an example itself the target is there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.fewshot.body_place import gap_mm
from latentseg.methods.fewshot.cell_margins import Placed, margin
from latentseg.methods.fewshot.cells import ScanCells, described_slices
from latentseg.methods.fewshot.local_placement import moved
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors
from latentseg.methods.fewshot.scan_cells import CellsOfScans, LastUsed, digest
from latentseg.methods.fewshot.target_evidence import evidence, surest_margin
from latentseg.methods.fewshot.volume_example import VolumeExample

LEAST_FIT = 1e-3  # which examples that do not fit at all are weighted with
FIT_WIDTH = 0.002  # of the fit, over which the presence falls
EVIDENCE_WIDTH = 0.022  # of the evidence, likewise
ALIKE = (0.64, 0.68)  # mean cosine of two scans: of a CT and an MR at most, of one modality at least
OWN = 0.02  # share of cells that are the same, above which a scan is an example's own
UNLIKE = "nothing in the scan resembles the target as it should if it were there"
ELSEWHERE = "the scan shows another part of the body than the examples"

Pair = tuple[VolumeExample, Placed]


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
    least_evidence: float = -0.07

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
        self._placed: LastUsed[tuple[ScanCells, Placed]] = LastUsed()

    def get_ready(self, scan: EncodedScan) -> None:
        """Describe the cells of a scan."""
        at, along_mm, side_mm = described(scan)
        self.cells(scan.images[at], along_mm=along_mm, side_mm=side_mm)

    def of_support(self, examples: Examples) -> Tensors:
        """The references of each scan of the support, under its number."""
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
        at, along_mm, side_mm = described(scan)
        cells = self.cells(scan.images[at], along_mm=along_mm, side_mm=side_mm)
        examples = examples_of(support, cells.features.device)
        pairs = [(example, self.placed(cells, example)) for example in examples]
        fit = max(placed.alignment.fit for _, placed in pairs)
        margins, score = self.searched(cells, pairs)
        log_odds = self.options.vote * on_slices(margins.cpu(), at, search.log_odds.shape)
        gap = gap_mm(cells.height_mm, *(example.height_mm.cpu() for example in examples))
        shown = rises(fit - self.options.least_fit_at(gap), FIT_WIDTH)
        there = rises(score - self.options.least_evidence, EVIDENCE_WIDTH)
        in_view = search.in_view * shown * there
        reason = ELSEWHERE if shown < 0.5 else UNLIKE if there < 0.5 else ""
        if any(placed.alignment.same > OWN for _, placed in pairs):  # somebody marked the target in this scan
            in_view, reason = search.in_view, ""
        return replace(search, log_odds=search.log_odds + log_odds, in_view=in_view, reason=reason)

    def placed(self, cells: ScanCells, example: VolumeExample) -> Placed:
        """The scan laid on an example, once for all targets that are shown in the same one."""
        key = (id(cells), digest(example.mean, example.sample, example.sample_mm))
        return self._placed.of(key, lambda: (cells, Placed.of(cells, example)))[1]

    def searched(self, cells: ScanCells, pairs: Sequence[Pair]) -> tuple[Tensor, float]:
        """Margin ``(S, h, w)`` after both searches by the best fitting examples, and what speaks for it."""
        options = self.options
        chosen = sorted(pairs, key=lambda pair: -pair[1].alignment.fit)[: options.examples]
        weights = weights_of(chosen, options.trust)
        margins = joint_margin(cells, chosen, weights, pull_mm=options.pull_mm)
        pull_mm = options.second_pull_mm or options.pull_mm
        if options.second_pull_mm:
            chosen = [(example, moved(placed, example, cells, margins)) for example, placed in chosen]
            margins = joint_margin(cells, chosen, weights, pull_mm=pull_mm)
        own = margins[cells.body]
        scores = [evidence(example, placed, own, pull_mm=pull_mm) for example, placed in chosen]
        alike = float(np.dot(weights, [placed.alignment.alike for _, placed in chosen]))
        level = options.level * surest_margin(own) * float(np.interp(alike, ALIKE, (0, 1)))
        return margins - level, float(np.dot(weights, scores))


def described(scan: EncodedScan) -> tuple[Tensor, Tensor, float]:
    """Which slices of a scan are described, where they lie along the body, and the edge of a slice."""
    at = described_slices(len(scan), scan.spacing_mm[0])
    return at, at * scan.spacing_mm[0], scan.spacing_mm[1] * scan.images.shape[-1]


def examples_of(support: Tensors, device: torch.device) -> list[VolumeExample]:
    """The references, as :meth:`VolumeMatching.of_support` named them."""
    numbers = sorted({name.split("/")[0] for name in support}, key=int)
    names = [field.name for field in fields(VolumeExample)]
    return [VolumeExample(*(support[f"{n}/{name}"].to(device) for name in names)) for n in numbers]


def weights_of(pairs: Sequence[Pair], trust: float) -> NDArray[np.float64]:
    """How much each example counts, by how well the scan fits it; the sum is 1."""
    weights = np.array([max(placed.alignment.fit, LEAST_FIT) ** trust for _, placed in pairs])
    return np.asarray(weights / weights.sum())


def joint_margin(
    cells: ScanCells, pairs: Sequence[Pair], weights: NDArray[np.float64], *, pull_mm: float
) -> Tensor:
    """Weighted mean margin ``(S, h, w)`` by several examples."""
    margins = [margin(cells, example, placed, pull_mm=pull_mm) for example, placed in pairs]
    return torch.stack([float(w) * m for w, m in zip(weights, margins, strict=True)]).sum(0)


def rises(above: float, width: float) -> float:
    """From 0 to 1 around the threshold that a value is ``above``."""
    return float(1 / (1 + np.exp(-above / width)))


def on_slices(margins: Tensor, known: Tensor, size: Sequence[int]) -> Tensor:
    """Margins ``(S', h, w)`` of the described slices on all slices and pixels, ``(S, H, W)``, linearly."""
    fine = F.interpolate(margins[:, None], size=list(size[1:]), mode="bilinear", align_corners=False)[:, 0]
    at = torch.arange(size[0])
    above = torch.searchsorted(known, at).clamp(max=len(known) - 1)
    below = (above - 1).clamp(min=0)
    share = (at - known[below]) / (known[above] - known[below]).clamp(min=1)
    return torch.lerp(fine[below], fine[above], share.clamp(0, 1)[:, None, None].to(fine))
