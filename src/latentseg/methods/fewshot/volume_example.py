"""An example scan as references: every cell of its target, and cells of everything else.

All of the scan is shown to the method, not a few slices of it: what lies beside the target, and what looks
like it elsewhere in the body, are the references of what is *not* the target. Where only some slices were
marked, nothing is known of the slices between and beside them, and they give no references.

Features are projected on the principal axes of the example's own cells, a fifth of their number, which keeps
what tells its parts from each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.cells import ScanCells, body_cells, some
from latentseg.methods.fewshot.support_scan import SupportScan

AXES = 96  # principal axes that are kept
FIT_FROM = 20_000  # cells that they are computed from
SAMPLE = 10_000  # cells of the whole body, by which scans are laid on each other
TARGET = 1_500  # cells of the target
BESIDE = 3_000  # cells near the target, and as many anywhere
NEAR = (2, 4, 4)  # slices and cells of the target's surroundings
PROBED = 2_000  # cells of the rest whose like is sought in it
APART_MM = 40.0  # distance from which on the like of a cell is not its neighbor
COVERED = 0.5  # share of a cell from which on it is the target's, relative to its best cell
UNCOVERED = 0.2  # share below which it is not


@dataclass(frozen=True, eq=False)
class VolumeExample:
    """What scans are compared with; all features are unit vectors on the principal axes.

    Attributes:
        mean: ``(D,)`` of the example's cells.
        axes: ``(D, K)``.
        sample: ``(n, K)`` of cells all over the body, and ``sample_mm`` ``(n, 3)``, where they lie.
        sample_mm: See there.
        target: ``(m, K)`` of the target's cells.
        target_mm: ``(m, 3)``.
        rest: ``(r, K)`` of cells that are not the target's, half of them near it.
        rest_mm: ``(r, 3)``.
        height_mm: ``(t,)``, heights in the body of the slices that hold the target.
        likeness: Mean cosine of a cell of the rest and the most similar ones far from it, see
            :func:`likeness_of`.
        complete: Whether the target is marked on every slice that shows it.
        found: Whether the target is a result that nobody has looked at.
    """

    mean: Tensor
    axes: Tensor
    sample: Tensor
    sample_mm: Tensor
    target: Tensor
    target_mm: Tensor
    rest: Tensor
    rest_mm: Tensor
    height_mm: Tensor
    likeness: Tensor
    complete: Tensor
    found: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, scan: SupportScan, cells: ScanCells) -> Self | None:
        """The references of a marked scan with its cells; None where no cell is the target's."""
        mean, axes = principal_axes(cells.features)
        parts = inside_and_outside(scan, cells.body.cpu())
        if parts is None:
            return None
        inside, outside, near = (part.to(cells.body.device) for part in parts)

        def drawn(which: Tensor, most: int) -> tuple[Tensor, Tensor]:
            at = some(torch.nonzero(which[cells.body])[:, 0], most)
            return projected(cells.features[at], mean, axes).half(), cells.places_mm[at]

        everywhere = torch.ones_like(inside)
        beside, far = drawn(outside & near, BESIDE), drawn(outside & ~near, BESIDE)
        rest, rest_mm = (torch.cat(pair) for pair in zip(beside, far, strict=True))
        held = cells.height_mm[torch.from_numpy(scan.masks.any((1, 2)))]
        shown = (*drawn(everywhere, SAMPLE), *drawn(inside, TARGET), rest, rest_mm)
        about = (torch.tensor(bool(scan.known.all())), torch.tensor(scan.found))
        return cls(mean, axes, *shown, held, likeness_of(rest, rest_mm), *about)

    @property
    def cells(self) -> float:
        """How large the target is, see :func:`size_in_cells`."""
        return size_in_cells(self.target_mm[:, 0].unique(return_counts=True)[1])

    def project(self, features: Tensor) -> Tensor:
        """Features ``(N, D)`` of another scan as unit vectors ``(N, K)`` on this example's axes."""
        return torch.cat([projected(part, self.mean, self.axes) for part in features.split(1 << 14)])


def inside_and_outside(scan: SupportScan, body: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Cells ``(S, h, w)`` of the target, those known to be something else, and those around the target.

    Args:
        scan: A marked scan.
        body: ``(S, h, w)``, which of its cells are not air.

    Returns:
        Nothing where one of the first two is empty: there is nothing to compare scans with.
    """
    covered = coverage(scan, body.shape[-1]).masked_fill(~body, 0.0)
    known = torch.from_numpy(scan.known)[:, None, None]
    outside = (covered < UNCOVERED) & known & body
    if float(covered.max()) == 0 or not bool(outside.any()):
        return None
    return covered >= COVERED * covered.max(), outside, around(covered > UNCOVERED)


def likeness_of(features: Tensor, places_mm: Tensor) -> Tensor:
    """Mean cosine of unit vectors ``(n, K)`` and the three most similar ones far from each: how much repeats.

    Of long scans of thin slices it is larger than of a few thick ones.
    """
    at = some(torch.arange(len(features)), PROBED)
    alike = features[at].float() @ features.float().T
    alike.masked_fill_(torch.cdist(places_mm[at], places_mm) < APART_MM, -1.0)
    return alike.topk(min(3, alike.shape[1]), 1).values.mean()


def size_in_cells(of_slices: Tensor) -> float:
    """Size of a target by its cells on every slice, ``(S,)``.

    It is their sum, or that of a ball as wide as the largest slice where this is more: of a large target only
    a few slices may be marked.
    """
    ball: float = float(of_slices.max()) ** 1.5
    return max(float(of_slices.sum()), ball)


def comparable(scans: Sequence[SupportScan], edge: int) -> bool:
    """Whether any of the scans, in cells of ``edge`` along a side, has references."""
    bodies = (body_cells(torch.from_numpy(scan.images)[:, None], edge) for scan in scans)
    return any(inside_and_outside(scan, body) for scan, body in zip(scans, bodies, strict=True))


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and principal axes ``(D, K)`` of features ``(N, D)``."""
    some_of_them = features[some(torch.arange(len(features)), FIT_FROM)].float()
    mean = some_of_them.mean(0)
    spread = (some_of_them - mean).T @ (some_of_them - mean)
    return mean, torch.linalg.eigh(spread).eigenvectors[:, -AXES:].contiguous()


def projected(features: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Unit vectors ``(N, K)``."""
    return F.normalize((features.float() - mean) @ axes, dim=1)


def coverage(scan: SupportScan, edge: int) -> Tensor:
    """Share ``(S, edge, edge)`` of each cell of a scan that is the target's."""
    masks = torch.from_numpy(scan.masks)[:, None]
    return torch.cat([F.adaptive_avg_pool2d(some_of_them.float(), edge) for some_of_them in masks.split(8)])[
        :, 0
    ]


def around(cells: Tensor) -> Tensor:
    """Cells ``(S, h, w)`` bool and those near them."""
    size = [2 * reach + 1 for reach in NEAR]
    wide = F.max_pool3d(cells[None, None].float(), size, stride=1, padding=NEAR)
    return wide[0, 0] > 0
