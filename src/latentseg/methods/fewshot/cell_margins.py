"""How much more each cell of a scan resembles the target of an example than anything else in it.

A cell ``q`` of the scan resembles a reference ``p`` of the example by::

    s(q, p) = cos(f_q, f_p) - |place(q) - place(p)|^2 / pull^2

with places in mm in the example's frame. The *margin* of a cell is the mean of its three largest ``s`` to
cells of the target, less the same to cells of everything else. Every other cell is compared first, and then
the neighborhood of whatever may be the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.fewshot.alignment import Alignment, align
from latentseg.methods.fewshot.cells import ScanCells, some
from latentseg.methods.fewshot.volume_example import VolumeExample

SAMPLE = 2_500  # cells of a scan by which it is laid on examples
NEAREST = 3
BLOCKS = 64  # the largest of a row are found among the maxima of so many interleaved parts of it
AT_ONCE = 1024  # cells compared at a time
FAR = -0.5  # margin of cells that are not compared
LEAST_FIT = 1e-3  # which examples that do not fit at all are weighted with
HOPEFUL = -0.12  # margin of a cell above which the cells around it are compared, too
REACH_MM = 175.0  # cells farther than this from the box around the target are not compared


@dataclass(frozen=True, eq=False)
class Placed:
    """A scan in the frame of an example.

    Attributes:
        features: ``(N, K)`` on the example's axes.
        places_mm: ``(N, 3)`` in the example's frame.
        alignment: How it was laid there.
    """

    features: Tensor
    places_mm: Tensor
    alignment: Alignment

    @classmethod
    def of(cls, cells: ScanCells, example: VolumeExample) -> Placed:
        """Lay a scan on an example."""
        features = example.project(cells.features)
        at = some(torch.arange(len(features)), SAMPLE)
        alignment = align((features[at], cells.places_mm[at]), (example.sample.float(), example.sample_mm))
        return cls(features, alignment(cells.places_mm), alignment)


Pair = tuple[VolumeExample, Placed]


@torch.no_grad()
def margin(cells: ScanCells, example: VolumeExample, placed: Placed, *, pull_mm: float) -> Tensor:
    """Margin ``(S, h, w)`` of the target over everything else, by one example."""
    queries = with_places(placed.features, placed.places_mm / pull_mm)
    target = references(example.target, example.target_mm / pull_mm)
    rest = references(example.rest, example.rest_mm / pull_mm)
    out = queries.new_full((len(queries),), FAR)

    def compare(which: Tensor) -> None:
        for part in torch.nonzero(which)[:, 0].split(AT_ONCE):
            out[part] = best(queries[part] @ target) - best(queries[part] @ rest)

    near = beside_box(placed.places_mm, example.target_mm) < REACH_MM**2
    coarse = every_other(cells.body)[cells.body]
    compare(near & coarse)
    hopeful = cells.on_grid((out > HOPEFUL).float(), empty=0.0)
    wide = F.max_pool3d(hopeful[None, None], 3, stride=1, padding=1)[0, 0][cells.body] > 0
    compare(near & wide & ~coarse)
    return cells.on_grid(out, empty=FAR)


def with_places(features: Tensor, places: Tensor) -> Tensor:
    """Queries whose product with :func:`references` is the cosine less the squared distance, but for |q|^2.

    What is left out is the same for all references and cancels in a margin.
    """
    return torch.cat([features, places, torch.ones_like(places[:, :1])], 1)


def references(features: Tensor, places: Tensor) -> Tensor:
    """References ``(K + 4, n)``, see :func:`with_places`."""
    away = -places.square().sum(1, keepdim=True)
    return torch.cat([features.float(), 2 * places, away], 1).T.contiguous()


def best(similar: Tensor) -> Tensor:
    """Mean of about the three largest of each row ``(n, m)``: of the maxima of its interleaved parts."""
    count = similar.shape[1]
    if count > 4 * BLOCKS:
        rows = -(-count // BLOCKS)
        similar = F.pad(similar, (0, rows * BLOCKS - count), value=-9.0).view(-1, rows, BLOCKS).amax(1)
    return similar.topk(min(NEAREST, similar.shape[1]), 1).values.mean(1)


def every_other(body: Tensor) -> Tensor:
    """A quarter of the cells of ``(S, h, w)``, evenly spread."""
    which = torch.zeros_like(body)
    which[::2, ::2, ::2] = True
    which[1::2, 1::2, 1::2] = True
    return which


def beside_box(places_mm: Tensor, target_mm: Tensor) -> Tensor:
    """Squared distance ``(N,)`` in mm^2 of places to the box around the target."""
    low, high = target_mm.min(0).values, target_mm.max(0).values
    return ((low - places_mm).clamp(min=0) + (places_mm - high).clamp(min=0)).square().sum(1)


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
