"""Where the organs are, so that a tumor of the liver is looked for at the liver.

Not of the paper, whose attention is known to see no further than the text; ours. A small head on the same
frozen features, trained on labelled organs, says which organ a position belongs to, and the log-odds of a
tumor fall with the distance from the organ that the prompt names.

A mass that fills a lung is not seen as lung, and vessels and the muscles of the shoulders beside one are as
suspicious as a tumor: lungs are the cavity that they span without the organs below, and a tumor lies within.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image
from torch import Tensor, nn

from latentseg.imaging.components import large_in_volume
from latentseg.methods.diffugts.attention_maps import Pyramid
from latentseg.methods.tumor.organ_network import AROUND_MM, SLAB, Around, Lesions, Run, between
from latentseg.methods.tumor.told import Told

WIDTH = 48  # of the pyramid
SMALLEST = 0.0005  # of a slice, below which a piece is not taken for an organ
PART = 0.25  # of an organ's largest piece in a scan; a femoral head is as round as a kidney, and smaller
FIELD_MM = 384.0  # the edge of the image of 2-D backbones in a trunk, by which distances in blocks are told
TRUSTED = 0.4  # Dice on its training samples from which on an organ is relied on
BESIDE = 0.1  # of the image's edge; a large mass is not seen as the organ that it grows from and displaces
CAVITY = "lung"  # the organ that is what its parts span, in which a tumor lies, not beside it
ONE_SIDED = 0.35  # of one lung, below which the other is taken for filled by something


class OrganMaps(nn.Module):
    """A classifier of positions.

    Args:
        names: Organs of the vocabulary; none where this was not trained.
        channels: Widths of the stages, those of one grid together, finest grid first.
        dims: 2 or 3.
        beside: See :class:`~latentseg.methods.tumor.features.TumorConfig`.
        around: Whether the slices around are seen as well.
        lesions: Whether lesions are told as well, of any organ.

    Attributes:
        quality: ``(organs,)``, Dice of each on samples of its training.
    """

    quality: Tensor

    def __init__(
        self,
        names: Sequence[str],
        channels: Sequence[Sequence[int]],
        *,
        dims: int = 2,
        beside: Mapping[str, float] | None = None,
        around: bool = False,
        lesions: bool = False,
    ) -> None:
        super().__init__()
        self.names, self.beside = tuple(names), {CAVITY: 0.0, **(beside or {})}
        self.sizes = [len(level) for level in channels]
        if names:
            self.register_buffer("quality", torch.ones(len(names)))
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.pyramid = Pyramid([sum(level) for level in channels], WIDTH, dims=dims) if names else None
        self.classify = conv(WIDTH, 1 + len(names), 1) if names else None
        coarse = len(channels) - 1 if names and around else 0
        self.around = nn.ModuleList(Around(WIDTH) for _ in range(coarse))
        self.lesions = Lesions(WIDTH) if names and lesions else None

    @property
    def trusted(self) -> tuple[str, ...]:
        """The organs that are found well enough to say where a tumor can be."""
        if not self.names:
            return ()
        return tuple(name for name, good in zip(self.names, self.quality >= TRUSTED, strict=True) if good)

    def of_scan(self, stages: Sequence[Tensor], step_mm: float) -> Told:
        """What the slices of a scan show, given in order, so far apart."""
        logits, lesions = self.with_lesions(stages, [Run(len(stages[0]), step_mm)])
        return Told(logits.softmax(1).cpu(), None if lesions is None else lesions.cpu())

    def forward(self, stages: Sequence[Tensor], runs: Sequence[Run] = ()) -> Tensor:
        """Logits ``(B, 1 + organs, ...)`` of stages ``[(B, C_l, ...)]``, finest first; 0 is elsewhere.

        Args:
            stages: Of slices, a few of which go through a level at a time, or of blocks.
            runs: Which of them are neighbors; left out, each is alone.
        """
        return self.with_lesions(stages, runs)[0]

    def with_lesions(
        self, stages: Sequence[Tensor], runs: Sequence[Run] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """The same, and log-odds ``(B, 1, ...)`` of a lesion; None where they are not told."""
        if self.pyramid is None or self.classify is None:
            raise RuntimeError("the organs were not trained")
        every = iter(stages)
        levels = [list(zip(*(next(every).split(SLAB) for _ in range(n)), strict=True)) for n in self.sizes]
        places = [between(runs or [Run(len(stages[0]), 0.0)], away_mm) for away_mm in AROUND_MM]
        merged: Tensor | None = None
        for at in range(len(levels) - 1, -1, -1):
            coarser = merged.split(SLAB) if merged is not None else [None] * len(levels[at])
            parts = zip(levels[at], coarser, strict=True)
            merged = torch.cat([self._merged(self.pyramid, at, *part) for part in parts])
            merged = self.around[at - 1](merged, places) if self.around and at else merged
        finest = torch.as_tensor(merged)
        logits = torch.cat([torch.as_tensor(self.classify(F.gelu(slab))) for slab in finest.split(SLAB)])
        return logits, self.lesions(finest, places) if self.lesions else None

    def _merged(self, pyramid: Pyramid, at: int, stages: Sequence[Tensor], coarser: Tensor | None) -> Tensor:
        """A level of the pyramid for a few slices."""
        return pyramid.level(at, torch.cat([normalized(stage.float()) for stage in stages], 1), coarser)

    def distances(self, chances: Tensor, organ: str, *, field: Sequence[float] | None = None) -> Tensor:
        """Distance ``(B, 1, ...)`` from what may be a tumor of an organ; 1 where there is no organ.

        In shares of the image's edge, counted from a little beside the organ; of lungs, from their cavity.

        Args:
            chances: ``(B, 1 + organs, ...)``, of neighboring slices in order.
            organ: One of ``names``.
            field: Of a block, the lengths of its axes as shares of :data:`FIELD_MM`.
        """
        away = np.stack([distance_from(one, field=field) for one in self.inside(chances, organ)])
        beside = self.beside.get(organ, BESIDE)
        return torch.from_numpy(np.where(away < 1, (away - beside).clip(min=0), away))[:, None]

    def inside(self, chances: Tensor, organ: str) -> NDArray[np.bool_]:
        """Where an organ is, ``(B, ...)``; arguments as for :meth:`distances`."""
        found = self.found(chances, organ)
        if organ != CAVITY:
            return found
        others = [self.found(chances, other) for other in self.trusted if other != organ]
        below = np.any(others, axis=0) if others else np.zeros_like(found)
        return np.stack([cavity(one) for one in found]) & ~below

    def found(self, chances: Tensor, organ: str) -> NDArray[np.bool_]:
        """The large pieces of an organ, ``(B, ...)``, of lungs what is seen of them; arguments as above."""
        chance = (chances[:, 1 + self.names.index(organ)] > 0.5).cpu().numpy()
        if chance.ndim == 3:
            return large_in_volume(chance, fraction=PART)
        return np.stack([large_in_volume(one, fraction=PART) for one in chance])


def normalized(stage: Tensor) -> Tensor:
    """A stage ``(B, C, ...)`` with channels of mean 0 and variance 1 at every position."""
    return F.layer_norm(stage.movedim(1, -1), stage.shape[1:2]).movedim(-1, 1)


def cavity(lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What two lungs ``(rows, columns)`` span; where one is missing, the mirror image stands in for it.

    Of volumes ``(slices, rows, columns)`` slice by slice.
    """
    if lungs.ndim == 3:
        return np.stack([cavity(one) for one in lungs])
    if not lungs.any():
        return lungs
    middle = lungs.shape[1] // 2
    sides = sorted((lungs[:, :middle].sum(), lungs[:, middle:].sum()))
    both = lungs | lungs[:, ::-1] if sides[0] < ONE_SIDED * sides[1] else lungs
    return np.asarray(convex_hull_image(both))


def distance_from(inside: np.ndarray, *, field: Sequence[float] | None = None) -> np.ndarray:
    """Distance of every position from a mask without its specks, as a share of the edge, at most 1.

    Args:
        inside: The mask.
        field: Lengths of its axes, where they are not those of a square.
    """
    parts, count = ndimage.label(inside)
    sizes = ndimage.sum_labels(inside, parts, range(1, count + 1))
    smallest = SMALLEST ** (inside.ndim / 2) * inside.size
    organ = np.isin(parts, 1 + np.flatnonzero(sizes >= smallest))
    if not organ.any():
        return np.ones(inside.shape, np.float32)
    cells = [side / n for side, n in zip(field, inside.shape, strict=True)] if field else 1 / inside.shape[-1]
    away = ndimage.distance_transform_edt(~organ, sampling=cells)
    return np.asarray(away.clip(max=1), np.float32)
