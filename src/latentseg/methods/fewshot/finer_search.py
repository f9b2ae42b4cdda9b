"""A finer search for small targets: the surroundings of the target once more, in smaller cells.

Not in SD-FSMIS. A cell of a whole scan is some 10 mm wide: a kidney has two hundred of them, an esophagus
sixteen and an adrenal gland eight, too few to be told from what lies beside them. So a square around the
target is cut out of the slices of the example and enlarged, and so is the square of the scan in which the
target is expected after the search in large cells. Both are compared as whole scans are. For the smallest
targets this alone decides; for somewhat larger ones the log-odds are the mean of both searches, and the finer
one says whether they are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.cutouts import CutOuts
from latentseg.methods.fewshot.cell_margins import FAR, Placed, margin
from latentseg.methods.fewshot.cells import ScanCells, body_cells, on_slices, places
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Placement, Search, Tensors, named
from latentseg.methods.fewshot.support_scan import SupportScan
from latentseg.methods.fewshot.target_evidence import (
    ELSEWHERE,
    FINE_WIDTH,
    NOTHING,
    UNLIKE,
    evidence,
    rises,
)
from latentseg.methods.fewshot.volume_example import VolumeExample, inside_and_outside, size_in_cells
from latentseg.methods.fewshot.volume_matching import is_own

WIDEST = 0.75  # of the edge of a slice, above which a square is no cut-out worth its time


@dataclass(frozen=True)
class FinerOptions:
    """Which targets are searched in finer cells, and how.

    Attributes:
        beside_mm: How far the square reaches beyond the target, across the body.
        along_mm: The same along the body, of a scan; slices of an example reach half as far.
        pull_mm: See :mod:`.cell_margins`.
        vote: Logits per unit of margin.
        cells: Numbers of large cells of the target, ascending.
        weight: Of the finer search beside the first at these numbers; linear between them.
        least_evidence: Score below which what was found is not the target, see :mod:`.target_evidence`.
    """

    beside_mm: float = 30.0
    along_mm: float = 35.0
    pull_mm: float = 80.0
    vote: float = 20.0
    cells: tuple[float, ...] = (35, 75, 110, 140)
    weight: tuple[float, ...] = (1, 0.5, 0.5, 0)
    least_evidence: float = -0.225

    def weight_of(self, cells: float) -> float:
        """How much the finer search counts for a target of so many large cells."""
        return float(np.interp(cells, self.cells, self.weight))


@dataclass(frozen=True, eq=False)
class Square:
    """A square of slices, in mm.

    Attributes:
        middle_mm: ``(2,)``, down and right from the middle of the slice.
        side_mm: Its edge.
    """

    middle_mm: Tensor
    side_mm: float

    def cuts(self, count: int, *, pixels: int, slice_mm: float) -> CutOuts:
        """The square in ``count`` slices of an edge of so many pixels and mm."""
        centers = pixels * (self.middle_mm / slice_mm + 0.5)
        edges = torch.full((count,), pixels * self.side_mm / slice_mm)
        return CutOuts(centers.expand(count, 2), edges)


class FinerSearch(Part):
    """Searches the surroundings of small targets again.

    Args:
        features: Of the cells.
        options: See there.
    """

    name = "finer search"

    def __init__(self, features: MatchingFeatures, options: FinerOptions | None = None) -> None:
        self.features, self.options = features, options or FinerOptions()

    def of_support(self, examples: Examples) -> Tensors:
        """The references of each scan in which the target is small, under the scan's number."""
        tensors: Tensors = {}
        number = 0
        for scan in examples.scans:
            images = torch.from_numpy(scan.images)[:, None]
            parts = inside_and_outside(scan, body_cells(images, self.features.grid))
            if parts is None:
                continue
            weight = self.options.weight_of(size_in_cells(parts[0].sum((1, 2))))
            found = self._example(scan) if weight else None
            if found:
                square, example = found
                about = {"weight": torch.tensor(weight), "side_mm": torch.tensor(square.side_mm)}
                tensors |= {f"{number}/{name}": t for name, t in (vars(example) | about).items()}
            number += 1
        return tensors

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Mix what finer cells say with the first search, wherever the first one placed the target."""
        placements = [one for one in search.placements if f"{one.number}/weight" in support]
        if not placements:
            return search
        found = [self._found(one, scan, named(support, str(one.number))) for one in placements]
        shares = np.array([one.weight for one in placements])
        weight = float(sum(one.weight * support[f"{one.number}/weight"] for one in placements))
        shares /= shares.sum()
        weighted = [float(share) * margins for share, (margins, _) in zip(shares, found, strict=True)]
        margins = torch.stack(weighted).sum(0)
        log_odds = torch.lerp(search.log_odds, self.options.vote * margins, weight)
        if is_own(search.placements):
            return replace(search, log_odds=log_odds)
        score = float(np.dot(shares, [score for _, score in found]))
        own = rises(score - self.options.least_evidence, FINE_WIDTH)
        asked = min(2 * weight, 1.0)
        likely = (1 - asked) * search.likely + asked * own
        reason = search.reason if search.reason == ELSEWHERE else UNLIKE if likely < 0.5 else ""
        return replace(search, log_odds=log_odds, likely=likely, reason=reason)

    @torch.no_grad()
    def _example(self, scan: SupportScan) -> tuple[Square, VolumeExample] | None:
        """The square around the target of a scan, and its cells as references."""
        pixel_mm = scan.side_mm / scan.masks.shape[-1]
        lows, highs = np.array(
            [np.flatnonzero(scan.masks.any(axes))[[0, -1]] for axes in ((1, 2), (0, 2), (0, 1))]
        ).T
        middle_mm = ((lows + highs)[1:] / 2 - (scan.masks.shape[-1] - 1) / 2) * pixel_mm
        side_mm = float((highs - lows)[1:].max() * pixel_mm + 2 * self.options.beside_mm)
        if side_mm > WIDEST * scan.side_mm:
            return None
        square = Square(torch.from_numpy(middle_mm).float(), side_mm)
        reach_mm, at_mm = self.options.along_mm / 2, scan.places_mm
        near = (at_mm >= at_mm[lows[0]] - reach_mm) & (at_mm <= at_mm[highs[0]] + reach_mm)
        images, masks = (as_images(slices[near]) for slices in (scan.images, scan.masks))
        cuts = square.cuts(len(images), pixels=images.shape[-1], slice_mm=scan.side_mm)
        enlarged, marked = cuts.of(images), cuts.of(masks)[:, 0] >= 0.5
        cells = self._cells(enlarged, torch.from_numpy(at_mm[near]), square)
        slices = enlarged[:, 0].half().numpy()
        cut = SupportScan(slices, marked.numpy(), scan.known[near], at_mm[near], side_mm)
        example = VolumeExample.of(cut, cells)
        if example is None:
            return None
        return square, replace(example, sample=example.sample[:0], sample_mm=example.sample_mm[:0])

    def _cells(self, images: Tensor, along_mm: Tensor, square: Square) -> ScanCells:
        """The cells of enlarged squares ``(S, 1, H, W)``, their places in mm of the scan."""
        maps = torch.cat([self.features(image).half() for image in images.split(1)])
        edge = maps.shape[-1]
        body = body_cells(images, edge).to(maps.device)
        where = places(along_mm, edge, square.side_mm) + F.pad(square.middle_mm, (1, 0))
        unknown = torch.full((len(images),), torch.nan)
        return ScanCells(maps.permute(0, 2, 3, 1)[body], where.to(maps.device)[body.flatten()], body, unknown)

    @torch.no_grad()
    def _found(
        self, placement: Placement, scan: EncodedScan, tensors: Mapping[str, Tensor]
    ) -> tuple[Tensor, float]:
        """By one example: margins ``(S, H, W)``, outside of the square those of far cells, and the score."""
        alignment = placement.alignment
        device = self.features.device
        example = VolumeExample(*(tensors[field.name].to(device) for field in fields(VolumeExample)))
        ends_mm = alignment.inverse(torch.stack([example.target_mm.amin(0), example.target_mm.amax(0)]).cpu())
        at, along_mm, slice_mm = scan.described()
        reach_mm = self.options.along_mm
        near = (along_mm >= ends_mm[0, 0] - reach_mm) & (along_mm <= ends_mm[1, 0] + reach_mm)
        square = Square(ends_mm[:, 1:].mean(0), float(tensors["side_mm"] / alignment.scale[1:].mean()))
        empty = torch.full((len(scan), *scan.images.shape[2:]), FAR)
        if not bool(near.any()):
            return empty, NOTHING
        images = scan.images[at[near]]
        cuts = square.cuts(len(images), pixels=images.shape[-1], slice_mm=slice_mm)
        cells = self._cells(cuts.of(images), along_mm[near], square)
        placed = Placed(example.project(cells.features), alignment(cells.places_mm), alignment)
        found = margin(cells, example, placed, pull_mm=self.options.pull_mm)
        score = evidence(example, placed, found[cells.body], pull_mm=self.options.pull_mm)
        fine = F.interpolate(
            found[:, None].cpu(), size=images.shape[2:], mode="bilinear", align_corners=False
        )
        back, inside = cuts.back(fine)
        own = torch.where(inside, back, torch.tensor(FAR))[:, 0]
        first, last = int(at[near][0]), int(at[near][-1])
        empty[first : last + 1] = on_slices(own, at[near] - first, (last + 1 - first, *images.shape[2:]))
        return empty, score


def as_images(slices: NDArray[np.generic]) -> Tensor:
    """Slices ``(S, H, W)`` as images ``(S, 1, H, W)``."""
    return torch.from_numpy(slices.astype(np.float32))[:, None]
