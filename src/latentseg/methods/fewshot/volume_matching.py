"""Matching in 3-D: every cell of an example's whole scan is a reference, and all slices are searched.

Not in SD-FSMIS, whose protocols give slices that are known to hold the organ. Without any training:

1. The scan is laid on the example's, by a scale and a shift along each axis (:mod:`.alignment`).
2. Every cell of it is compared with the cells of the target and with those of everything else, near ones more
   than far ones (:mod:`.cell_margins`). Where the target can be is a matter of degree.
3. The same once more, with the target itself laid on what was found (:mod:`.local_placement`).

With several examples the margins are averaged, weighted by how well each example's scan fits this one: the
fit is known without any label, and a poor example must not spoil a good one. A scan that fits none of them
shows another part of the body, and the target is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.cell_margins import Placed, margin
from latentseg.methods.fewshot.cells import ScanCells, described_slices
from latentseg.methods.fewshot.local_placement import moved
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors
from latentseg.methods.fewshot.scan_cells import CellsOfScans
from latentseg.methods.fewshot.volume_example import VolumeExample

LEAST_FIT = 1e-3  # which examples that do not fit at all are weighted with
FIT_WIDTH = 0.003  # of the fit, over which the presence falls
ELSEWHERE = "the scan shows another part of the body than the examples"

Pair = tuple[VolumeExample, Placed]


@dataclass(frozen=True)
class VolumeOptions:
    """How a volume is searched.

    Attributes:
        pull_mm: Distance in the example's frame that costs a cosine of 1.
        second_pull_mm: The same in the second search, around what the first one found; None for no second.
        vote: Logits per unit of margin.
        examples: Most examples that a scan is compared with, the best fitting ones.
        trust: Power of the fit by which examples are weighted.
        least_fit: Fit of the best example below which the scan shows another part of the body.
    """

    pull_mm: float = 250.0
    second_pull_mm: float | None = 170.0
    vote: float = 20.0
    examples: int = 5
    trust: float = 2.0
    least_fit: float = 0.07


class VolumeMatching(Part):
    """Searches a whole scan with the whole scans of the examples.

    Args:
        features: Of the cells.
        options: See there.
        slab: Slices that go through the network at a time.
    """

    name = "volume matching"

    def __init__(
        self, features: MatchingFeatures, options: VolumeOptions | None = None, *, slab: int = 8
    ) -> None:
        self.options = options or VolumeOptions()
        self.cells = CellsOfScans(features, slab=slab)

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
        step_mm, pixel_mm, _ = scan.spacing_mm
        at = described_slices(len(scan), step_mm)
        side_mm = pixel_mm * scan.images.shape[-1]
        cells = self.cells(scan.images[at], along_mm=at * step_mm, side_mm=side_mm)
        examples = examples_of(support, cells.features.device)
        pairs = [(example, Placed.of(cells, example)) for example in examples]
        fit = max(placed.alignment.fit for _, placed in pairs)
        margins = self.searched(cells, pairs).cpu()
        log_odds = self.options.vote * on_slices(margins, at, search.log_odds.shape)
        shown = 1 / (1 + np.exp((self.options.least_fit - fit) / FIT_WIDTH))
        reason = "" if fit >= self.options.least_fit else ELSEWHERE
        in_view = search.in_view * shown
        return replace(search, log_odds=search.log_odds + log_odds, in_view=in_view, reason=reason)

    def searched(self, cells: ScanCells, pairs: Sequence[Pair]) -> Tensor:
        """Margin ``(S, h, w)`` after both searches, by the best fitting examples."""
        options = self.options
        chosen = sorted(pairs, key=lambda pair: -pair[1].alignment.fit)[: options.examples]
        first = joint_margin(cells, chosen, pull_mm=options.pull_mm, trust=options.trust)
        if options.second_pull_mm is None:
            return first
        placed = [(example, moved(placed, example, cells, first)) for example, placed in chosen]
        return joint_margin(cells, placed, pull_mm=options.second_pull_mm, trust=options.trust)


def examples_of(support: Tensors, device: torch.device) -> list[VolumeExample]:
    """The references, as :meth:`VolumeMatching.of_support` named them."""
    numbers = sorted({name.split("/")[0] for name in support}, key=int)
    names = [field.name for field in fields(VolumeExample)]
    return [VolumeExample(*(support[f"{n}/{name}"].to(device) for name in names)) for n in numbers]


def joint_margin(cells: ScanCells, pairs: Sequence[Pair], *, pull_mm: float, trust: float) -> Tensor:
    """Margin ``(S, h, w)`` by several examples, weighted by how well the scan fits each one."""
    weights = np.array([max(placed.alignment.fit, LEAST_FIT) ** trust for _, placed in pairs])
    margins = [margin(cells, example, placed, pull_mm=pull_mm) for example, placed in pairs]
    weighted = [float(w) * m for w, m in zip(weights / weights.sum(), margins, strict=True)]
    return torch.stack(weighted).sum(0)


def on_slices(margins: Tensor, described: Tensor, size: Sequence[int]) -> Tensor:
    """Margins ``(S', h, w)`` of the described slices on all slices and pixels, ``(S, H, W)``, linearly."""
    fine = F.interpolate(margins[:, None], size=list(size[1:]), mode="bilinear", align_corners=False)[:, 0]
    at = torch.arange(size[0])
    above = torch.searchsorted(described, at).clamp(max=len(described) - 1)
    below = (above - 1).clamp(min=0)
    share = (at - described[below]) / (described[above] - described[below]).clamp(min=1)
    return torch.lerp(fine[below], fine[above], share.clamp(0, 1)[:, None, None].to(fine))
