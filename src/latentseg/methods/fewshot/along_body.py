"""Where along the body the target can be: a scan is laid beside the support's scan, slice by slice.

Not in SD-FSMIS, whose protocols give slices that are known to hold the organ. Matching alone finds something
on any slice: the stomach above a spleen, a muscle below a kidney. But the support's scan shows more than its
labelled slices: it also shows what the body coarse like where the target is not. Without any training:

1. Every slice is described by its frozen features on a coarse grid, less the mean of its scan, as a whole and
   around the place of the target. Slices of two scans are as alike as the cosine of the two.
2. Query slices follow each other along the body like support slices do. With the support's slices as hidden
   states, a step of the query's spacing as transition and ``exp(cosine / temperature)`` as emission, the
   forward-backward algorithm (Rabiner 1989) gives the chance that query slice ``i`` lies where support slice
   ``j`` does.
3. A query slice shows the target with the chance that it lies on the run of slices that hold it in the
   support; supports of several scans are averaged. Where on the run it lies says which of the support's
   slices it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors
from latentseg.methods.fewshot.scan_features import GRID, ScanFeatures, coarse
from latentseg.methods.fewshot.support_scan import SupportScan

FEWEST = 4  # slices without which a scan has no course along the body


@dataclass(frozen=True)
class AxisOptions:
    """How scans are laid beside each other.

    Attributes:
        temperature: Difference of cosines that makes one place ``e`` times as likely as another.
        around: Weight of the target's surroundings beside that of the whole slice.
        drift: Standard deviation of a step, relative to the query's spacing: bodies are longer or shorter.
        jump: Chance that the next slice is anywhere, for scans with gaps.
        certain: Chance from which on a slice is searched for the target.
        length: Share of the target's length in the support that a scan must show for full presence.
    """

    temperature: float = 0.05
    around: float = 0.5
    drift: float = 0.35
    jump: float = 1e-4
    certain: float = 0.7
    length: float = 0.8


class AlongBody(Part):
    """Finds the slices that can show the target, and the examples that lie where they do.

    Args:
        features: Of the matching prior.
        options: See there.
        slab: Slices at a time.
    """

    name = "place along the body"

    def __init__(self, features: MatchingFeatures, options: AxisOptions, *, slab: int = 8) -> None:
        self.features, self.options, self.slab = features, options, slab

    def of_support(self, examples: Examples) -> Tensors:
        """The course of each scan of the support, under its number."""
        axes = [SupportAxis.of(scan, self.features, slab=self.slab) for scan in examples.scans]
        placed = sum(len(axis.marked) for axis in axes) == len(examples.images)
        tensors = {f"{i}/{name}": t for i, axis in enumerate(axes) for name, t in vars(axis).items()}
        return tensors | ({"placed": torch.tensor(placed and examples.shots == 1)} if axes else {})

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Keep the slices that can show the target; those of a scan too short for a course are all kept."""
        axes, step_mm = axes_of(support), scan.spacing_mm[0]
        if not axes or len(search.at) < FEWEST:
            return search
        own = scan.of(ScanFeatures.name)["coarse"].cpu()
        courses = [course(own, axis, step_mm, self.options) for axis in axes]
        shown = shown_by(courses, axes)
        if bool(support["placed"]):
            search = replace(search, among=examples_beside(courses, axes))
        in_view = shown * seen_length(shown, axes, step_mm=step_mm, options=self.options)
        return replace(search, in_view=in_view).only(torch.from_numpy(shown >= self.options.certain))


@dataclass(frozen=True, eq=False)
class SupportAxis:
    """The course of a support's scan along the body, from inferior to superior.

    Attributes:
        coarse: ``(S, D, 8, 8)`` of all its slices, see :func:`.scan_features.coarse`.
        holds: ``(S,)`` bool, the run of slices that hold the target.
        region: ``(8, 8)`` in {0, 1}, where the target is in the plane, and a cell around it.
        step_mm: Distance of its slices, a scalar.
        marked: ``(n,)``, where on the run the support slices of this scan lie, from 0 to 1.
    """

    coarse: Tensor
    holds: Tensor
    region: Tensor
    step_mm: Tensor
    marked: Tensor

    @classmethod
    def of(cls, scan: SupportScan, features: MatchingFeatures, *, slab: int = 8) -> SupportAxis:
        """Describe the scan of a support, some slices at a time."""
        slabs = torch.from_numpy(scan.images)[:, None].split(slab)
        layout = torch.cat([coarse(features.plain(images.float())).cpu() for images in slabs])
        region = coarse_region(torch.from_numpy(scan.region))
        marked = torch.from_numpy(scan.marked)
        return cls(layout, torch.from_numpy(scan.holds), region, torch.tensor(scan.step_mm), marked)


def coarse_region(mask: Tensor) -> Tensor:
    """Cells ``(8, 8)`` that a mask ``(H, W)`` touches, and those beside them."""
    cells = F.adaptive_max_pool2d(mask.float()[None, None], GRID)
    return F.max_pool2d(cells, 3, stride=1, padding=1)[0, 0]


def shown_by(courses: Sequence[NDArray[np.float64]], axes: Sequence[SupportAxis]) -> NDArray[np.float64]:
    """Chance ``(S,)`` that each slice of a scan shows the target, mean over the support's scans.

    Args:
        courses: From :func:`course`, one per scan of the support.
        axes: Of the support's scans.
    """
    found = [course @ axis.holds.double().numpy() for course, axis in zip(courses, axes, strict=True)]
    return np.asarray(np.mean(found, axis=0))


def examples_beside(courses: Sequence[NDArray[np.float64]], axes: Sequence[SupportAxis]) -> Tensor:
    """The support slice ``(S, scans)`` of each scan that lies where a slice does on the run of the target.

    Support slices of all scans are counted in a row; arguments as for :func:`shown_by`.
    """
    chosen, first = [], 0
    for one, axis in zip(courses, axes, strict=True):
        chance = torch.from_numpy(one)[:, axis.holds]
        along = (torch.arange(chance.shape[1]) + 0.5) / chance.shape[1]
        place = chance @ along.double() / chance.sum(1).clamp(min=1e-12)
        chosen.append(first + (place[:, None] - axis.marked).abs().argmin(1))
        first += len(axis.marked)
    return torch.stack(chosen, 1)


def seen_length(
    shown: NDArray[np.float64], axes: Sequence[SupportAxis], *, step_mm: float, options: AxisOptions
) -> float:
    """How much of the target's length a scan shows, in [0, 1]; 1 where its end may cut the target off.

    Slices beside a target look much like its ends. In a scan without it, though, its course jumps from one
    side to the other.

    Args:
        shown: Chance ``(S,)`` from :func:`shown_by`.
        axes: Of the support's scans.
        step_mm: Distance of the slices.
        options: See there.
    """
    if max(shown[0], shown[-1]) >= 0.5:
        return 1.0
    expected_mm = np.mean([float(axis.holds.sum() * axis.step_mm) for axis in axes])
    return float(min(1.0, shown.sum() * step_mm / (options.length * expected_mm)))


@torch.no_grad()
def course(coarse: Tensor, axis: SupportAxis, step_mm: float, options: AxisOptions) -> NDArray[np.float64]:
    """Chance ``(S, S_support)`` that slice ``i`` lies where slice ``j`` of the support's scan does."""
    return places(alike(coarse, axis, options), step_mm, float(axis.step_mm), options)


def alike(coarse: Tensor, axis: SupportAxis, options: AxisOptions) -> NDArray[np.float64]:
    """Cosines ``(S, S_support)`` of slices, of the whole and of the target's surroundings."""
    query, known = (t.float() - t.float().mean(0) for t in (coarse, axis.coarse))
    whole = unit(query) @ unit(known).T
    region = axis.region.to(query)
    beside = unit(query * region) @ unit(known * region).T
    return np.asarray(((1 - options.around) * whole + options.around * beside).double().numpy())


def places(
    cosines: NDArray[np.float64], step_mm: float, support_step_mm: float, options: AxisOptions
) -> NDArray[np.float64]:
    """Chance ``(S, S_support)`` that slice ``i`` lies where support slice ``j`` does; rows sum to 1."""
    count = cosines.shape[1]
    moved_mm = (np.arange(count) - np.arange(count)[:, None]) * support_step_mm
    spread_mm = options.drift * step_mm + 0.5 * support_step_mm
    steps = np.exp(-0.5 * ((moved_mm - step_mm) / spread_mm) ** 2) * (moved_mm > -0.5 * support_step_mm)
    steps = (1 - options.jump) * steps / np.maximum(steps.sum(1, keepdims=True), 1e-9) + options.jump / count
    emission = np.exp((cosines - cosines.max(1, keepdims=True)) / options.temperature)
    forward, backward = emission.copy(), np.ones_like(emission)
    for i in range(1, len(emission)):
        forward[i] *= (forward[i - 1] / forward[i - 1].sum()) @ steps
    for i in reversed(range(len(emission) - 1)):
        ahead = steps @ (emission[i + 1] * backward[i + 1])
        backward[i] = ahead / ahead.sum()
    both = forward * backward
    return np.asarray(both / both.sum(1, keepdims=True))


def unit(x: Tensor) -> Tensor:
    """Rows ``(S, D, h, w)`` flattened to vectors of length 1."""
    return F.normalize(x.flatten(1), dim=1)


def axes_of(tensors: Tensors) -> list[SupportAxis]:
    """The courses of the scans of a support, as :meth:`AlongBody.of_support` named them."""
    count = len({name.split("/")[0] for name in tensors if "/" in name})
    fields = ("coarse", "holds", "region", "step_mm", "marked")
    return [SupportAxis(*(tensors[f"{number}/{name}"] for name in fields)) for number in range(count)]
