"""Two scans laid on each other: a scale and a shift along each axis, and how well they fit.

Scans of one body region differ in field of view, start and the size of the patient. Cells of both that are
each other's nearest neighbor in feature space are pairs; most are right between scans of the same region, and
few agree on anything between scans of different ones. Per axis::

    place in the example = scale * place in the scan + shift

is fitted to the pairs by iteratively reweighted least squares whose weights fall with the
fourth power of the distance (the start along the body is the best of a grid, since half of the pairs may be
wrong). The mean weight at the end is the *fit*: the share of pairs that agree. It is higher between
two scans of one region than between different parts of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SPREAD_MM = (25.0, 20.0, 20.0)  # of the distance of right pairs from the fit
SCALES = (0.7, 1.45)  # what a body may be longer or wider than another
START_SCALES = torch.logspace(-0.0969, 0.0969, 10)  # 0.8 to 1.25
START_SHIFTS = torch.arange(0.04, 0.97, 0.04)  # quantiles of the offsets of all pairs
START_NEAR_MM = 40.0
STEPS = 25
KEEP_SCALE_MM = 30.0  # the scale is drawn to 1 as if by pairs that spread this far
FEWEST_PAIRS = 12
SAME = 0.998  # cosine of a cell with itself in half precision, at least
OWN = 0.02  # share of cells that are the same, above which a scan was laid on itself


@dataclass(frozen=True, eq=False)
class Alignment:
    """How a scan lies on an example.

    Attributes:
        scale: ``(3,)``, along the body, down, and right.
        shift_mm: ``(3,)``.
        fit: Mean weight of the pairs, from 0 to 1.
        pairs: Their number.
        alike: Mean cosine of cells of the scan and the cells of the example most like them.
        same: Share of the cells of the scan that are in the example just as they are: large where the scan is
            the example's own.
    """

    scale: Tensor
    shift_mm: Tensor
    fit: float
    pairs: int
    alike: float
    same: float = 0.0

    @property
    def is_own(self) -> bool:
        """Whether the scan was laid on itself."""
        return self.same > OWN

    def __call__(self, places_mm: Tensor) -> Tensor:
        """Where places ``(N, 3)`` of the scan lie in the example."""
        return places_mm * self.scale.to(places_mm) + self.shift_mm.to(places_mm)

    def inverse(self, places_mm: Tensor) -> Tensor:
        """Where places ``(N, 3)`` of the example lie in the scan."""
        return (places_mm - self.shift_mm.to(places_mm)) / self.scale.to(places_mm)


@torch.no_grad()
def align(scan: tuple[Tensor, Tensor], example: tuple[Tensor, Tensor]) -> Alignment:
    """Lay a scan on an example.

    Args:
        scan: Unit vectors ``(n, K)`` and places in mm ``(n, 3)`` of some cells of its body.
        example: The same of the example.
    """
    alike = scan[0] @ example[0].T
    here, there = mutual_pairs(alike, scan[1], example[1])
    most = alike.max(1).values if alike.numel() else torch.zeros(1)
    mean, same = float(most.mean()), float((most > SAME).float().mean())
    if len(here) < FEWEST_PAIRS:
        shift = there.mean(0) - here.mean(0) if len(here) else torch.zeros(3)
        return Alignment(torch.ones(3), shift, 0.0, len(here), mean, same)
    scale, shift = start(here, there)
    weights = torch.ones(len(here))
    for step in range(STEPS):
        spread = torch.tensor(SPREAD_MM) * (1 + 2 * torch.exp(torch.tensor(-step / 5)))
        apart = (there - here * scale - shift) / spread
        weights = 1 / (1 + apart.square().sum(1)).square()
        scale, shift = weighted_fit(here, there, weights)
    return Alignment(scale, shift, float(weights.mean()), len(here), mean, same)


def mutual_pairs(alike: Tensor, here_mm: Tensor, there_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Places ``(m, 3)`` of cells that are each other's nearest neighbors.

    Args:
        alike: Cosines ``(n, k)`` of the cells of two scans.
        here_mm: Places of the ones, ``(n, 3)``.
        there_mm: Places of the others, ``(k, 3)``.
    """
    if not alike.numel():
        return here_mm.new_zeros(0, 3).cpu(), there_mm.new_zeros(0, 3).cpu()
    nearest = alike.argmax(1)
    back = alike.argmax(0)[nearest]
    mutual = back == torch.arange(len(nearest), device=nearest.device)
    return here_mm[mutual].cpu(), there_mm[nearest[mutual]].cpu()


def start(here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and shift along the body that most pairs agree with, of a grid; medians across it."""
    best, scale, shift = -1.0, torch.ones(3), torch.zeros(3)
    for stretch in START_SCALES:
        offsets = there[:, 0] - stretch * here[:, 0]
        shifts = offsets.quantile(START_SHIFTS)
        agree = torch.exp(-0.5 * ((offsets - shifts[:, None]) / SPREAD_MM[0]).square()).mean(1)
        agree = agree - 0.02 * stretch.log().abs()
        if float(agree.max()) > best:
            best, scale[0], shift[0] = float(agree.max()), stretch, shifts[agree.argmax()]
    near = (there[:, 0] - scale[0] * here[:, 0] - shift[0]).abs() < START_NEAR_MM
    shift[1:] = (there - here)[near][:, 1:].median(0).values
    return scale, shift


def weighted_fit(here: Tensor, there: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted least squares of each axis, the scale drawn to 1."""
    share = (weights / weights.sum())[:, None]
    mean_here, mean_there = (share * here).sum(0), (share * there).sum(0)
    from_here, from_there = here - mean_here, there - mean_there
    prior = KEEP_SCALE_MM**2
    scale = ((share * from_here * from_there).sum(0) + prior) / ((share * from_here.square()).sum(0) + prior)
    scale = scale.clamp(*SCALES)
    return scale, mean_there - scale * mean_here
