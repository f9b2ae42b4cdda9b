"""A closer look: the attention maps once more, on enlarged squares of suspicious slices.

Ours, not the paper's. On the grid of the maps a small tumor is two cells wide; in squares of half a slice,
enlarged to whole images, it is four, and its surroundings are seen as sharply. Squares cover the organ of the
prompt or, where that is not known, what the first look found. That keeps a share, as it knows what lies
around::

    logit = (1 - w) logit_first + w logit_closer

The weight w falls to 0 towards the border of what squares cover, so that masks have no seams there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from latentseg.methods.cutouts import CutOuts
from latentseg.methods.tumor.told import Beside

FADED = 0.1  # of a square's edge

Compare = Callable[[Tensor, Beside], Tensor]


@dataclass(frozen=True)
class CloserOptions:
    """How slices are looked at again.

    Attributes:
        edge: Of the squares, as a share of the slice's; of the voxels of a 3-D backbone's blocks, as a share
            of the first look's.
        margin: Around what is covered, as a share of the slice's edge.
        weight: Of the closer look beside the first.
        blocks: Of a 3-D backbone, at most, those of the largest pieces.
    """

    edge: float = 0.5
    margin: float = 0.05
    weight: float = 0.5
    blocks: int = 8


def look_closer(
    images: Tensor,
    margins: Tensor,
    inside: NDArray[np.bool_],
    *,
    beside: Beside,
    compare: Compare,
    options: CloserOptions,
) -> Tensor:
    """Log-odds ``(S, 1, H, W)`` after a closer look.

    Args:
        images: Suspicious slices ``(S, 1, H, W)`` in [-1, 1].
        margins: Log-odds of the first look, likewise.
        inside: ``(S, h, w)``, what squares have to cover.
        beside: What is known of the slices, on their grid.
        compare: Log-odds ``(N, 1, H, W)`` of images and of what is known of them.
        options: See there.
    """
    edge = images.shape[-1]
    squares = [(row, place) for row, one in enumerate(inside) for place in squares_over(one, options)]
    if not squares:
        return margins
    rows = torch.tensor([row for row, _ in squares])
    centers = torch.tensor(np.array([place for _, place in squares]), dtype=torch.float32) * edge
    cuts = CutOuts(centers, torch.full((len(rows),), options.edge * edge))
    near = beside.each(lambda known: cuts.of(known[rows]))
    closer, covered = cuts.back(compare(cuts.of(images[rows]), near))
    middle = cuts.back(pyramid(images.shape[2:]).expand(len(rows), -1, -1, -1))[0] * covered
    total = torch.zeros_like(margins).index_add(0, rows, closer * middle)
    count = torch.zeros_like(margins).index_add(0, rows, middle)
    own = options.weight * faded(count > 0, 2 * [round(FADED * options.edge * edge)])
    return torch.where(count > 0, (1 - own) * margins + own * total / count.clamp(min=1e-6), margins)


def pyramid(size: Sequence[int]) -> Tensor:
    """Weights ``(1, 1, ...)``, 1 in the middle and near 0 at the borders, by which squares give way."""
    sides = [1 - (2 * (torch.arange(edge) + 0.5) / edge - 1).abs() for edge in size]
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).prod(0)[None, None]


def faded(covered: Tensor, widths: Sequence[int]) -> Tensor:
    """1 inside of what is covered ``(S, 1, ...)``, falling to 0 over a width along each axis."""
    inside, pool = covered.float(), F.avg_pool2d if len(widths) == 2 else F.avg_pool3d
    for axis, width in enumerate(widths):
        pads = [width if axis == other else 0 for other in range(len(widths))]
        inside = pool(inside, [2 * pad + 1 for pad in pads], 1, pads, count_include_pad=False)
    return (2 * inside - 1).clamp(min=0)


def squares_over(inside: NDArray[np.bool_], options: CloserOptions) -> list[tuple[float, float]]:
    """Centers of the squares that cover each piece of a mask ``(h, w)``, as shares of the edge."""
    edge = inside.shape[-1]
    pieces = ndimage.find_objects(ndimage.label(inside)[0])
    places: list[tuple[float, float]] = []
    for box in pieces:
        rows, columns = (
            middles(side.start / edge - options.margin, side.stop / edge + options.margin, options.edge)
            for side in box
        )
        places += [(row, column) for row in rows for column in columns]
    return places


def middles(start: float, stop: float, length: float) -> Sequence[float]:
    """Middles of as few intervals of a length as cover one from ``start`` to ``stop``."""
    count = max(int(np.ceil((stop - start) / length)), 1)
    if count == 1:
        return [(start + stop) / 2]
    return [float(x) for x in np.linspace(start + length / 2, stop - length / 2, count)]
