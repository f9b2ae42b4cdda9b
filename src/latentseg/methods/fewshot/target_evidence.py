"""Whether what was found is the target: in a scan without it something else resembles it most.

Three things speak for the target:

* **Explained**: each cell of the example's target has its like in the scan, about as much as cells of the two
  scans have in general. Of a target that is missing, most cells have none near the place where it should be.
* **Distinct**: the cells that are most surely the target are far more like it than like anything else.
* **By looks**: what was found resembles the target more than anything else in the example, wherever that
  lies. What takes the place of a missing target was found for its place, and its like is elsewhere. The more
  the example's own cells resemble each other, the more surely such a like is found.

The score is ``explained + 0.55 distinct + 3.3 by looks + 3.7 (likeness - 0.69)``, which logistic regressions
on scans with and without their organs gave. It is compared with a low threshold: a target that is there must
not be lost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentseg.methods.fewshot.cell_margins import Placed
from latentseg.methods.fewshot.cells import some
from latentseg.methods.fewshot.volume_example import VolumeExample

DISTINCT = 0.55  # weight of the largest margins
SUREST = 0.95  # quantile of the positive margins
FEWEST = 2  # cells
NOTHING = -1.0  # score where nothing was found
TARGET = 400  # cells of the target that are looked at
BY_LOOKS = 3.3  # weight of what looks alone say
LIKENESS = 3.7  # weight of the example's likeness to itself
USUAL = 0.69  # likeness of examples
COMPARED = 1_500  # found cells whose looks are compared
WIDTH = 0.04  # of the score, over which the presence falls
FINE_WIDTH = 0.022  # the same of ``explained + 0.55 distinct`` alone
ELSEWHERE = "the scan shows another part of the body than the examples"
UNLIKE = "nothing in the scan resembles the target as it should if it were there"


def surest_margin(margins: Tensor) -> float:
    """The margin of the cells that are most surely the target; 0 where none is above 0."""
    found = margins[margins > 0].float()
    return float(found.quantile(SUREST)) if len(found) else 0.0


@torch.no_grad()
def evidence(example: VolumeExample, placed: Placed, margins: Tensor, *, pull_mm: float) -> float:
    """The score that what was found is the target of an example.

    Args:
        example: The example.
        placed: The scan in its frame.
        margins: ``(N,)``, of the cells of the scan.
        pull_mm: See :mod:`.cell_margins`.
    """
    if int((margins > 0).sum()) < FEWEST:
        return NOTHING
    targets = some(torch.arange(len(example.target)), TARGET)
    here, there = placed.places_mm / pull_mm, example.target_mm[targets] / pull_mm
    alike = placed.features @ example.target[targets].float().T - torch.cdist(here, there).square()
    explained = float(alike.amax(0).mean()) - placed.alignment.alike
    return explained + DISTINCT * surest_margin(margins)


@torch.no_grad()
def by_looks(example: VolumeExample, placed: Placed, margins: Tensor) -> float:
    """How much more what was found resembles the target than anything else, wherever it lies.

    Args:
        example: The example.
        placed: The scan in its frame.
        margins: ``(N,)``, of the cells of the scan, some of which are above 0.

    Returns:
        The difference of two mean cosines, and how much it says in this example, both weighted; 0 where
        nothing was found.
    """
    if int((margins > 0).sum()) < FEWEST:
        return 0.0
    found = placed.features[some(torch.nonzero(margins > 0)[:, 0], COMPARED)]
    to_target, to_rest = (
        float((found @ references.float().T).amax(1).mean()) for references in (example.target, example.rest)
    )
    return BY_LOOKS * (to_target - to_rest) + LIKENESS * (float(example.likeness) - USUAL)


def rises(above: float, width: float) -> float:
    """From 0 to 1 around the threshold that a value is ``above``."""
    return 1 / (1 + math.exp(min(-above / width, 700)))
