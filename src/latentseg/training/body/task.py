"""Training of the body network: which way round pictures are, and how far apart slices of a scan are.

The heights are learned without labels, as in body part regression (Yan et al., 2018, arXiv:1707.03891): of
several slices of one scan only the distances are known, and the network must reproduce them; the kidneys of
the scans where they are outlined fix the zero, and the kind of the scan roughly places heads and limbs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from latentseg.training.body.model import BodyModel, export
from latentseg.training.body.pack import BodyPack
from latentseg.training.body.pictures import PictureBatch, PictureOptions, Pictures
from latentseg.training.loop import LoopOptions, Task

ERROR_UNIT_MM = 25.0
STANDS_FOR = torch.tensor([1.0, 1.0, 6.0])
"""How many of the eight turns each of the three that are drawn stands for, in the softmax over all."""


class BodyOptions(BaseModel, extra="forbid", frozen=True):
    """A training of the body network, as read from YAML.

    Attributes:
        distances: weight of the distances between slices of a scan.
        anchors: weight of known heights.
        tolerance_mm: of known heights.
        heights_after: share of the steps after which the rest is frozen, and only the layers of the heights
            are taught, on slices of many scans at a time.
        many: scans and slices of each from then on.
        dropout: share of hidden values that are dropped.
    """

    loop: LoopOptions
    pictures: PictureOptions = PictureOptions()
    distances: float = 0.4
    anchors: float = 0.2
    tolerance_mm: float = 10.0
    heights_after: float = 0.6
    many: tuple[int, int] = (36, 6)
    dropout: float = 0.2


class BodyTask(Task[BodyModel]):
    """What the loop trains."""

    def __init__(self, options: BodyOptions, packed: BodyPack) -> None:
        torch.manual_seed(options.loop.seed)
        self.options = options
        self.pictures = Pictures(packed, options.pictures)
        self.model = BodyModel(options.dropout)

    def images(self, batch: PictureBatch) -> int:
        """Pictures of a batch."""
        return batch.pictures.shape[0] * batch.pictures.shape[1]

    def batch(self, rng: np.random.Generator, progress: float) -> PictureBatch:
        """Draw one batch of pictures; of the last part of the schedule only those that teach heights."""
        if progress < self.options.heights_after:
            return self.pictures.draw(rng)
        return self.pictures.draw_stacks(rng, *self.options.many)

    def loss(self, batch: PictureBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of planes and turns, and errors of distances and known heights."""
        if batch.pictures.shape[1] == 1:
            self.model.blocks.eval()
            with torch.no_grad():
                features = self.model.features(batch.pictures)
            return self._height_losses(batch, *self.model.heights(features))
        count = len(batch.pictures)
        scores, height, spread = self.model(batch.pictures.flatten(0, 1)[:, None])
        scores = scores.view(count, 3, -1) + STANDS_FOR.log().to(scores)[:, None]
        height, spread = height.view(count, 3)[:, 0], spread.view(count, 3)[:, 0]
        turned = F.cross_entropy(scores.flatten(1), batch.planes)
        right = (scores.flatten(1).argmax(1) == batch.planes.argmax(1)).float().mean()
        loss, figures = self._height_losses(batch, height, spread)
        return turned + loss, {"turned": float(turned.detach()), "right": float(right), **figures}

    def _height_losses(
        self, batch: PictureBatch, height: Tensor, spread: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        options = self.options
        apart, missed_mm = distance_loss(height, spread, batch.group, batch.along_mm)
        known = ~batch.anchor_mm.isnan()
        anchored = height.sum() * 0
        if bool(known.any()):
            off = (height[known] - batch.anchor_mm[known]).abs() - options.tolerance_mm
            anchored = height_loss(off.relu(), spread[known])
        return options.distances * apart + options.anchors * anchored, {"missed_mm": missed_mm}

    def export(self, model: BodyModel, folder: Path) -> None:
        """Write ``body.safetensors``."""
        export(model, folder / "body.safetensors")


def height_loss(off_mm: Tensor, spread_mm: Tensor) -> Tensor:
    """Mean absolute error of heights, and how well the expected errors foresee it.

    The latter is the negative log-likelihood of a Laplace distribution. It teaches the expected errors alone:
    if it taught the heights too, those that are hard to learn would be given up as uncertain.
    """
    foreseen = off_mm.detach() / spread_mm + (spread_mm / ERROR_UNIT_MM).log()
    return (off_mm / ERROR_UNIT_MM + foreseen).mean()


def distance_loss(height: Tensor, spread: Tensor, group: Tensor, along_mm: Tensor) -> tuple[Tensor, float]:
    """How badly heights reproduce the distances of slices within each scan.

    Each scan has its own level, and half of what the heights suggest of a size of its own, up to 15 %.

    Args:
        height: `(N,)` in mm, as read.
        spread: `(N,)` expected absolute errors in mm.
        group: `(N,)` number of the scan, -1 for none.
        along_mm: `(N,)` positions along the scan.

    Returns:
        The loss, and the mean absolute error in mm.
    """
    losses, missed = [], []
    for number in group[group >= 0].unique():
        here = group == number
        read, along, wide = height[here], along_mm[here], spread[here]
        along, read = along - along.mean(), read - read.mean()
        with torch.no_grad():
            size = (along * read).sum() / ((along**2).sum() + 1.0)
            size = 1 + 0.5 * (size - 1).clamp(-0.3, 0.3)
        off = (read - size * along).abs()
        losses.append(height_loss(off, wide))
        missed.append(float(off.mean().detach()))
    return torch.stack(losses).mean(), float(np.mean(missed))
