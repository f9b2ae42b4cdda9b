"""The organs of an abdomen by every slice and those around it: a loop of bowel is not a pancreas a slice on.

The pyramid that tells organs slice by slice goes on here. On its coarse levels a position also sees what is
7 and 20 mm above and below it, which is drawn from the slices between which it lies, so that the distance of
the slices does not matter; beyond the ends of a scan, and in a picture, there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AROUND_MM = (-20.0, -7.0, 7.0, 20.0)  # where a position looks along the slices
GROUPS = 8
SLAB = 8  # slices that go through a level at a time
RARE = -3.0  # log-odds of a lesion before training


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

    def part(self, rows: slice) -> Between:
        """Of some slices alone."""
        return Between(*(one[rows] for one in self))


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
    """Adds how the slices around differ, and what lies beside; at first, nothing.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        seen = width // 2
        self.down, self.out = nn.Conv2d(width, seen, 1), nn.Conv2d(seen * len(AROUND_MM), width, 1)
        self.norm, self.beside = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        for tensor in (*self.out.parameters(), *self.beside.parameters()):
            nn.init.zeros_(tensor)

    def forward(self, values: Tensor, places: Sequence[Between]) -> Tensor:
        """Maps ``(S, width, h, w)`` to the same, by where :data:`AROUND_MM` lie."""
        own, found = self.down(values), []
        for start in range(0, len(values), SLAB):
            at = slice(start, start + SLAB)
            differing = torch.cat([place.part(at).of(own) - own[at] for place in places], 1)
            seen = values[at] + torch.as_tensor(self.out(F.gelu(differing)))
            found.append(seen + torch.as_tensor(self.beside(F.gelu(self.norm(seen)))))
        return torch.cat(found)


class Lesions(nn.Module):
    """Log-odds of a lesion anywhere, by the finest grid of the organs and the slices around.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.around, self.odds = Around(width), nn.Conv2d(width, 1, 1)
        nn.init.constant_(torch.as_tensor(self.odds.bias), RARE)

    def forward(self, values: Tensor, places: Sequence[Between]) -> Tensor:
        """Log-odds ``(S, 1, h, w)`` of maps ``(S, width, h, w)``, by where :data:`AROUND_MM` lie."""
        slabs = self.around(values, places).split(SLAB)
        return torch.cat([torch.as_tensor(self.odds(F.gelu(slab))) for slab in slabs])
