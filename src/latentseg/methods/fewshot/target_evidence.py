"""Whether what was found is the target: in a scan without it something else resembles it most.

Two things speak for the target, both beside what is usual between the two scans:

* **Likeness**: found cells resemble the target about as much as cells of the two scans resemble each other;
  what takes the place of a missing target does so less.
* **Coverage**: the cells of the scan that resemble the example's target most are among the found ones; those
  that resemble a missing target lie scattered.

The score is ``likeness + 0.3 (coverage - 0.8)``. It falls with the quality of the example, so the threshold
is low: a target that is there must not be lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentseg.methods.fewshot.cell_margins import Placed
from latentseg.methods.fewshot.cells import some
from latentseg.methods.fewshot.volume_example import VolumeExample

COVERED = 0.3  # weight of the coverage
USUAL = 0.8  # coverage of targets that are there
NOTHING = -1.0  # score where nothing was found
MOST = 2000  # found cells that are looked at
TARGET = 400  # cells of the target


@torch.no_grad()
def evidence(example: VolumeExample, placed: Placed, found: Tensor, *, pull_mm: float) -> float:
    """The score that found cells are the target of an example.

    Args:
        example: The example.
        placed: The scan in its frame.
        found: ``(N,)`` bool, the cells of the scan that were found.
        pull_mm: See :mod:`.cell_margins`.
    """
    at = some(torch.nonzero(found)[:, 0], MOST)
    if not len(at):
        return NOTHING
    to_all = similarity(placed, at, example, torch.arange(len(example.target)), pull_mm)
    likeness = float(to_all.max(1).values.mean()) - placed.alignment.alike
    targets = some(torch.arange(len(example.target)), TARGET)
    everywhere = torch.arange(len(found))
    best = similarity(placed, everywhere, example, targets, pull_mm).argmax(0)
    return likeness + COVERED * (float(found[best].float().mean()) - USUAL)


def similarity(
    placed: Placed, cells: Tensor, example: VolumeExample, targets: Tensor, pull_mm: float
) -> Tensor:
    """``s(q, p)`` of some cells of the scan and some cells of the target, ``(n, m)``."""
    here, there = placed.places_mm[cells] / pull_mm, example.target_mm[targets] / pull_mm
    return placed.features[cells] @ example.target[targets].float().T - torch.cdist(here, there).square()
