"""The organs of an abdomen by every slice and those around it: a loop of bowel is not a pancreas a slice on.

Levels of frozen features are merged from coarse to fine. On the coarse ones a position also sees what is
7 and 20 mm above and below it, which is drawn from the slices between which it lies, so that the distance of
the slices does not matter; beyond the ends of a scan, and in a picture, there is nothing to see. The finest
level, where a border runs, sees its own slice alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AROUND_MM = (-20.0, -7.0, 7.0, 20.0)  # where a position looks along the slices
WIDTHS = (32, 96, 96, 96)  # of levels, finest first
SEEN = (0, 32, 48, 48)  # channels of what is seen around, none on the finest level
DEPTHS = (1, 2, 2, 2)  # convolutions of a level
PLACES = 8  # of a learned map of places, along an edge
GROUPS, DROPOUT, SLAB = 8, 0.1, 8
FINER = 2  # times as many cells along an edge as the finest level has


class Run(NamedTuple):
    """How many neighboring slices of a scan, in order, and their distance; 0 of pictures, which are alone."""

    slices: int
    step_mm: float


class Between(NamedTuple):
    """Where something lies along slices: two of them ``(S,)``, and the share ``(S,)`` of the second."""

    first: Tensor
    second: Tensor
    share: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Values ``(S, ...)`` there."""
        share = self.share.view(-1, *[1] * (values.ndim - 1)).to(values)
        return values[self.first] * (1 - share) + values[self.second] * share


def between(runs: Iterable[Run], away_mm: float) -> Between:
    """Where positions so far above each slice of some runs lie; the slice itself beyond their ends."""
    parts, start = [], 0
    for count, step_mm in runs:
        own = torch.arange(count, dtype=torch.float32)
        wanted = own + (away_mm / step_mm if step_mm > 0 else 0)
        wanted = torch.where((wanted < 0) | (wanted > count - 1), own, wanted)
        first = wanted.floor().long()
        parts.append((start + first, start + (first + 1).clamp(max=count - 1), wanted - first))
        start += count
    return Between(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Around(nn.Module):
    """Adds how the slices around differ. Maps ``(S, width, h, w)`` to the same."""

    def __init__(self, width: int, seen: int) -> None:
        super().__init__()
        self.down, self.out = nn.Conv2d(width, seen, 1), nn.Conv2d(seen * len(AROUND_MM), width, 1)
        for tensor in self.out.parameters():
            nn.init.zeros_(tensor)

    def forward(self, values: Tensor, places: Sequence[Between]) -> Tensor:
        """See the class."""
        own = self.down(values)
        differing = torch.cat([place.of(own) - own for place in places], 1)
        return values + torch.as_tensor(self.out(F.gelu(differing)))


class Mix(nn.Module):
    """A convolution beside what is there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        """``(S, width, h, w)`` to the same."""
        return values + torch.as_tensor(self.conv(F.gelu(self.norm(values))))


class ScanPyramid(nn.Module):
    """A classifier of the positions of slices that knows what lies above and below.

    Args:
        channels: Widths of the stages, those of one grid together, finest of four grids first.
        classes: How many.
    """

    def __init__(self, channels: Sequence[Sequence[int]], classes: int) -> None:
        super().__init__()
        self.sizes = [len(level) for level in channels]
        self.dropout = nn.Dropout2d(DROPOUT)
        sums = [sum(level) for level in channels]
        self.lateral = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(sums, WIDTHS, strict=True))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(WIDTHS))
        self.around = nn.ModuleList(Around(w, s) for w, s in zip(WIDTHS[1:], SEEN[1:], strict=True))
        self.mix = nn.ModuleList(
            nn.Sequential(*(Mix(width) for _ in range(depth)))
            for width, depth in zip(WIDTHS, DEPTHS, strict=True)
        )
        self.places = nn.Parameter(torch.zeros(1, WIDTHS[-1], PLACES, PLACES))
        self.classify = nn.Conv2d(WIDTHS[0], classes * FINER**2, 1)

    def forward(self, stages: Sequence[Tensor], runs: Sequence[Run]) -> Tensor:
        """Logits ``(S, classes, FINER h, FINER w)`` of stages ``[(S, C_l, h_l, w_l)]``, finest first."""
        every = iter(stages)
        levels = [[next(every) for _ in range(size)] for size in self.sizes]
        places = [between(runs, away_mm) for away_mm in AROUND_MM]
        grid = levels[-1][0].shape[2:]
        merged = F.interpolate(self.places, size=grid, mode="bilinear", align_corners=False)
        for at in range(len(levels) - 1, 0, -1):
            own = torch.cat([self._entered(at, slab) for slab in slabs_of(levels[at])])
            own = own + (merged if at == len(levels) - 1 else self._finer(at, merged, own))
            merged = self.mix[at](self.around[at - 1](own, places))
        parts = zip(slabs_of(levels[0]), merged.split(SLAB), strict=True)
        return torch.cat([self._classified(slab, coarse) for slab, coarse in parts])

    def _entered(self, at: int, slab: Sequence[Tensor]) -> Tensor:
        values = torch.cat([normalized(stage.float()) for stage in slab], 1)
        return torch.as_tensor(self.lateral[at](self.dropout(values)))

    def _finer(self, at: int, coarse: Tensor, own: Tensor) -> Tensor:
        return F.interpolate(self.up[at](coarse), size=own.shape[2:], mode="bilinear", align_corners=False)

    def _classified(self, slab: Sequence[Tensor], coarse: Tensor) -> Tensor:
        own = self._entered(0, slab)
        own = self.mix[0](own + self._finer(0, coarse, own))
        return F.pixel_shuffle(self.classify(F.gelu(own)), FINER)


def slabs_of(stages: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """A few slices of stages at a time."""
    return list(zip(*(stage.split(SLAB) for stage in stages), strict=True))


def normalized(stage: Tensor) -> Tensor:
    """A stage ``(B, C, ...)`` with channels of mean 0 and variance 1 at every position."""
    return F.layer_norm(stage.movedim(1, -1), stage.shape[1:2]).movedim(-1, 1)
