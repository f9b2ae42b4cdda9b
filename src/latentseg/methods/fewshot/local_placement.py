"""Where in the scan the target itself lies: organs are displaced against each other from patient to patient.

The scan as a whole was laid on the example's. What was found there and the target of the example are paired
once more, cell by cell, and the way that most pairs agree on is how far the target lies from where it was
expected. The second search is centered on it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from latentseg.methods.fewshot.cell_margins import Placed
from latentseg.methods.fewshot.cells import ScanCells
from latentseg.methods.fewshot.volume_example import VolumeExample

FOUND = -0.02  # margin from which on a cell counts as found
NEAR = -0.05  # margin from which on it takes part in pairs
SHARP = 20.0  # logits per unit of margin
PULL_MM = 120.0  # of pairs
AGREE_MM = 15.0  # how far apart the two ways of a pair may end
SPREAD_MM = 30.0  # of the way of right pairs
STEPS = 10
FEWEST = 5


def moved(placed: Placed, example: VolumeExample, cells: ScanCells, margins: Tensor) -> Placed:
    """The scan moved in the example's frame so that what was found lies on the target.

    Args:
        placed: The scan as it was searched.
        example: The example.
        cells: Of the scan.
        margins: ``(S, h, w)``, what was found.
    """
    found = largest(margins > FOUND)[cells.body].to(margins.device)
    if not bool(found.any()):
        return placed
    own = margins[cells.body]
    weights = torch.sigmoid(SHARP * own) * found
    middle = (weights[:, None] * placed.places_mm).sum(0) / weights.sum()
    way = example.target_mm.mean(0) - middle
    near = own > NEAR
    if int(near.sum()) >= FEWEST and len(example.target) >= FEWEST:
        way = way_of_pairs(placed.features[near], placed.places_mm[near], example, way)
    alignment = replace(placed.alignment, shift_mm=placed.alignment.shift_mm + way.cpu())
    return replace(placed, places_mm=placed.places_mm + way, alignment=alignment)


def way_of_pairs(features: Tensor, places_mm: Tensor, example: VolumeExample, way: Tensor) -> Tensor:
    """The way ``(3,)`` that most pairs of found cells and cells of the target agree on.

    Args:
        features: Of the found cells, ``(n, K)``.
        places_mm: In the example's frame, ``(n, 3)``.
        example: The example.
        way: What is expected of the way.
    """
    here = places_mm + way
    apart = torch.cdist(here / PULL_MM, example.target_mm / PULL_MM).square()
    alike = features @ example.target.float().T - apart
    there = alike.argmax(1)
    back = alike.argmax(0)[there]
    trust = 1 / (1 + ((here - here[back]).norm(dim=1) / AGREE_MM).square()).square()
    ways = example.target_mm[there] - places_mm
    best: Tensor = (trust[:, None] * ways).sum(0) / trust.sum()
    for _ in range(STEPS):
        weights = trust / (1 + ((ways - best) / SPREAD_MM).square().sum(1))
        best = (weights[:, None] * ways).sum(0) / weights.sum()
    return best


def largest(found: Tensor) -> Tensor:
    """The largest part (26-connected) of cells ``(S, h, w)`` bool."""
    from scipy import ndimage

    labels, count = ndimage.label(found.cpu().numpy(), np.ones((3, 3, 3)))
    if count == 0:
        return torch.zeros(found.shape, dtype=torch.bool)
    return torch.from_numpy(labels == 1 + np.bincount(labels.ravel())[1:].argmax())
