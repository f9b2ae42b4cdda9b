"""The closer look of a 3-D backbone: blocks around what was found, in finer voxels than the first look's.

As the closer look at slices (:mod:`latentseg.methods.tumor.closer_look`), whose pieces it is made of. Blocks
are cut from the scan itself, so that they show what the first look left out; along axes in which the scan is
no finer they are as the first look was, and a scan that is finer nowhere is not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from latentseg.imaging.network_input import NetworkInput, normalized_slices
from latentseg.imaging.resize import resampled
from latentseg.methods.tumor.closer_look import FADED, CloserOptions, faded, middles, pyramid

EDGE = 128  # voxels of a block
AIR = np.float32(-1.0)

Shape = tuple[int, int, int]
Compare = Callable[[Tensor, tuple[float, float, float], Tensor | None], Tensor]


class Span(NamedTuple):
    """A block along one axis.

    Attributes:
        native: First voxel of the scan, and their number.
        voxels: Of the block; air is added up to ``padded``.
        step_mm: Of them.
        inside: Of the first look's voxels, those whose middles lie in the block.
        places: Their middles as shares of the padded block.
        shares: Middles of the padded block's voxels as shares of the first look's field.
    """

    native: tuple[int, int]
    voxels: int
    padded: int
    step_mm: float
    inside: slice
    places: Tensor
    shares: Tensor


@dataclass(frozen=True)
class Finer:
    """Where a scan is looked at again.

    Attributes:
        seen: The first look.
        options: See there.
        multiple: Of the edges of blocks.
    """

    seen: NetworkInput
    options: CloserOptions
    multiple: int

    @property
    def steps_mm(self) -> tuple[float, ...]:
        """Edges of the blocks' voxels."""
        return finer_mm(self.seen.canonical.spacing_mm, self.seen.spacing_mm, self.options.edge)

    @property
    def repays(self) -> bool:
        """Whether the scan is finer than the first look along some axis."""
        return is_finer(self.steps_mm, self.seen.spacing_mm)

    def blocks(self, inside: NDArray[np.bool_]) -> list[tuple[Span, ...]]:
        """Blocks over the pieces of a mask ``(D, H, W)`` on any grid of the first look, the largest first."""
        pieces = ndimage.label(inside, np.ones((3, 3, 3)))[0]
        sizes = np.bincount(pieces.ravel())[1:]
        boxes = ndimage.find_objects(pieces)
        found = [
            block for at in np.argsort(-sizes, kind="stable") for block in self._over(boxes[at], inside.shape)
        ]
        return found[: self.options.blocks]

    def _over(self, box: Sequence[slice], grid: Sequence[int]) -> Iterator[tuple[Span, ...]]:
        axes = []
        for axis, (side, count) in enumerate(zip(box, grid, strict=True)):
            field_mm = self.seen.images.shape[axis] * self.seen.spacing_mm[axis]
            margin, length = self.options.margin * field_mm, EDGE * self.steps_mm[axis]
            start, stop = (edge / count * field_mm for edge in (side.start, side.stop))
            axes.append(
                [self._span(axis, at, length) for at in middles(start - margin, stop + margin, length)]
            )
        yield from product(*axes)

    def _span(self, axis: int, middle_mm: float, length_mm: float) -> Span:
        native_mm, step_mm = self.seen.canonical.spacing_mm[axis], self.seen.spacing_mm[axis]
        there, looked = self.seen.canonical.slices.shape[axis], self.seen.images.shape[axis]
        count = min(max(round(length_mm / native_mm), 1), there)
        first = int(np.clip(round((middle_mm - length_mm / 2) / native_mm), 0, there - count))
        voxels = min(EDGE, max(round(count * native_mm / self.steps_mm[axis]), 1))
        padded = voxels + -voxels % self.multiple
        own_mm = count * native_mm / voxels
        start_mm, stop_mm = first * native_mm, (first + count) * native_mm
        lowest, end = (round(np.ceil(mm / step_mm - 0.5 - 1e-6)) for mm in (start_mm, stop_mm))
        inside = slice(lowest, min(end, looked))
        middles_mm = (torch.arange(inside.start, inside.stop) + 0.5) * step_mm
        own = start_mm + (torch.arange(padded) + 0.5) * own_mm
        places = (middles_mm - start_mm) / (padded * own_mm)
        return Span((first, count), voxels, padded, own_mm, inside, places, own / (looked * step_mm))


def look_closer_at_blocks(
    finer: Finer,
    margin: Tensor,
    inside: NDArray[np.bool_],
    *,
    away: Tensor | None,
    compare: Compare,
    window_hu: tuple[float, float],
) -> Tensor:
    """Log-odds ``(1, 1, D, H, W)`` after a closer look.

    Args:
        finer: Where.
        margin: Log-odds of the first look, likewise.
        inside: ``(d, h, w)`` on any grid, what blocks have to cover.
        away: ``(1, 1, ...)``, distance from the organ; None where it is not known.
        compare: Log-odds ``(1, 1, ...)`` on any grid of a block, its spacing, and what it is away.
        window_hu: Of CT, that the backbone was trained with.
    """
    blocks = finer.blocks(inside) if finer.repays else []
    if not blocks:
        return margin
    values = normalized_slices(finer.seen.scan, window_hu=window_hu)[1]
    total, count = torch.zeros_like(margin), torch.zeros_like(margin)
    for block in blocks:
        near = None if away is None else sampled(away, [span.shares for span in block])
        depth, row, column = (span.step_mm for span in block)
        closer = compare(cut(values, block), (depth, row, column), near)
        slices, rows, columns = (span.inside for span in block)
        weight = pyramid([len(span.places) for span in block])[0, 0]
        there = sampled(closer, [span.places for span in block])[0, 0]
        total[0, 0, slices, rows, columns] += weight * there
        count[0, 0, slices, rows, columns] += weight
    widths = [round(FADED * max(len(block[axis].places) for block in blocks)) for axis in range(3)]
    own = finer.options.weight * faded(count > 0, widths)
    return torch.where(count > 0, (1 - own) * margin + own * total / count.clamp(min=1e-6), margin)


def cut(values: NDArray[np.float32], block: Sequence[Span]) -> Tensor:
    """A block ``(1, 1, D, H, W)`` of a scan ``(S, H, W)``, with air after it."""
    box = tuple(slice(span.native[0], sum(span.native)) for span in block)
    fine = resampled(values[box], tuple(span.voxels for span in block))
    pads = [(0, span.padded - span.voxels) for span in block]
    return torch.from_numpy(np.pad(fine, pads, constant_values=AIR))[None, None]


def sampled(maps: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Maps ``(1, C, d, h, w)`` at places along each axis, as shares of their field; linear."""
    grid = torch.stack(torch.meshgrid(*(2 * one.float() - 1 for one in places), indexing="ij")[::-1], -1)
    return F.grid_sample(maps.float(), grid[None], padding_mode="border", align_corners=False)


def finer_mm(native_mm: Sequence[float], first_mm: Sequence[float], share: float) -> tuple[float, ...]:
    """Edges of voxels that are a share of the first look's, and no finer than the scan's."""
    pairs = zip(native_mm, first_mm, strict=True)
    return tuple(min(first, max(native, share * first)) for native, first in pairs)


def is_finer(steps_mm: Sequence[float], first_mm: Sequence[float]) -> bool:
    """Whether voxels are finer than the first look's along some axis, enough to look again."""
    return any(fine < 0.9 * first for fine, first in zip(steps_mm, first_mm, strict=True))


def largest_block(field_mm: Sequence[float], steps_mm: Sequence[float], multiple: int) -> Shape:
    """Edges of the largest block in a field of some lengths."""
    edges = [min(EDGE, max(round(length / mm), 1)) for length, mm in zip(field_mm, steps_mm, strict=True)]
    depth, height, width = (n + -n % multiple for n in edges)
    return depth, height, width
