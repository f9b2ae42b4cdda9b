"""Whether what was found is the target: in a scan without it something else resembles it most.

In a whole scan, what takes the place of a missing target was found for its place:

* **By looks**: it resembles other things in the example, wherever they lie, more than the target. The more
  the example's own cells resemble each other, the more surely such a like is there, so the difference is
  read against their likeness.
* **Displaced**: its middle stays away from the target's, though the target was laid on it, since only a part
  of it resembles a part of the target. Where a few slices were marked, nothing is known of the middle.

The score is ``by looks + 0.76 (likeness - 0.69) - displacement / 770 mm``, see :func:`looks`.

In the finer cells around a small target, places say little, and two other things speak for it:

* **Explained**: each cell of the example's target has its like in the scan, about as much as cells of the two
  scans have in general.
* **Distinct**: the cells that are most surely the target are far more like it than like anything else.

The score is ``explained + 0.55 distinct``, see :func:`evidence`. Logistic regressions on scans with and
without their organs gave both. They are compared with low thresholds: a target that is there must
not be lost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentseg.methods.fewshot.cell_margins import Placed
from latentseg.methods.fewshot.cells import ScanCells, some
from latentseg.methods.fewshot.local_placement import largest
from latentseg.methods.fewshot.volume_example import VolumeExample

DISTINCT = 0.55  # weight of the largest margins
SUREST = 0.95  # quantile of the positive margins
FEWEST = 2  # cells
NOTHING = -1.0  # score where nothing was found
TARGET = 400  # cells of the target that are looked at
LIKENESS = 0.76  # weight of the example's likeness to itself
USUAL = 0.69  # likeness of examples
DISPLACED_MM = 770.0  # displacement that counts as much as a cosine of 1
COMPARED = 1_500  # found cells whose looks are compared
WIDTH = 0.0084  # of the score by looks, over which the presence falls
FINE_WIDTH = 0.022  # the same of ``explained + 0.55 distinct``
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
def looks(example: VolumeExample, placed: Placed, cells: ScanCells, margins: Tensor) -> float:
    """The score that what was found in a whole scan is the target of an example.

    Args:
        example: The example.
        placed: The scan in its frame, laid there so that what was found lies on the target.
        cells: Of the scan.
        margins: ``(S, h, w)``, above 0 where something was found.
    """
    found = torch.nonzero(margins[cells.body] > 0)[:, 0]
    if len(found) < FEWEST:
        return NOTHING
    features = placed.features[some(found, COMPARED)]
    target, rest = (
        float((features @ references.float().T).amax(1).mean())
        for references in (example.target, example.rest)
    )
    score = target - rest + LIKENESS * (float(example.likeness) - USUAL)
    if not example.complete:
        return score
    main = largest(margins > 0)[cells.body.cpu()].to(placed.places_mm.device)
    return score - float((placed.places_mm[main].mean(0) - example.target_mm.mean(0)).norm()) / DISPLACED_MM


def rises(above: float, width: float) -> float:
    """From 0 to 1 around the threshold that a value is ``above``."""
    return 1 / (1 + math.exp(min(-above / width, 700)))
