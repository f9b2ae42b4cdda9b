"""Training of a picture network: outlined and synthetic tumors, varied anew in every step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from latentseg.backbones.image_features import FeatureNetwork
from latentseg.methods.tumor.picture_network import (
    PictureConfig,
    PictureNetwork,
    file_of_picture,
    read_picture,
    save_picture,
)
from latentseg.training.loop import LoopOptions, Task
from latentseg.training.optimizer import Group
from latentseg.training.pack import Pack
from latentseg.training.tumor.losses import dice
from latentseg.training.tumor.samples import SampleOptions, Samples

WEIGHTS = (0.15, 0.3, 1.0)  # of the grids, coarsest first
CROSS_ENTROPY = 3.0  # beside Dice
TUMOR = 3.0  # weight of a tumor's pixels in the cross-entropy
HEALTHY = 0.3  # of Dice where there is no tumor, which asks for nothing to be marked
ENCODER = 0.2  # of the learning rate, for blocks that know photographs
FADED = 9  # pixels over which a tumor that is put into another picture fades


class PictureTrainingOptions(BaseModel):
    """A training of the picture network, as read from YAML.

    Attributes:
        loop: Of the training.
        part: Of the body, beside whose tumor networks it stands (:data:`network.ALONE`), or those of the
            region around it (:data:`network.WITHIN`).
        network: Of the network, and how it counts.
        samples: What is learned from; what is asked for does not matter.
        batch: Samples per step.
        pasted: Share of the pictures into which the tumor of another is put.
        mixed: Share of the steps whose pictures are mixed with each other, and their masks likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopOptions
    part: Literal["head", "abdomen", "lung", "kidney"] = "head"
    network: PictureConfig = PictureConfig()
    samples: SampleOptions = SampleOptions()
    batch: Annotated[int, Field(gt=0)] = 16
    pasted: Annotated[float, Field(ge=0, le=1)] = 0.15
    mixed: Annotated[float, Field(ge=0, le=1)] = 0.2


class PictureBatch(NamedTuple):
    """Pictures ``(B, 1, H, W)`` in [-1, 1] and masks of the same shape in [0, 1]."""

    images: Tensor
    masks: Tensor


class PictureTask(Task[PictureNetwork]):
    """Trains the decoder and the coarser blocks.

    Args:
        options: See :class:`PictureTrainingOptions`.
        packed: Slices cut to the body, with outlines.
        photographs: What the network starts from.
        weights: A file of a picture network to start from instead.

    Raises:
        ModelError: That file is missing, damaged, or of another kind or size.
    """

    def __init__(
        self,
        options: PictureTrainingOptions,
        packed: Pack,
        photographs: FeatureNetwork,
        *,
        weights: Path | None = None,
    ) -> None:
        self.options = options
        self.samples = Samples(options.samples, packed)
        self.model = PictureNetwork(photographs, options.network)
        if weights:
            self.model.load_state_dict(read_picture(weights, photographs).state_dict())

    def groups(self) -> list[Group]:
        """The blocks more slowly than what is new."""
        known = list(self.model.blocks.parameters())
        new = [*self.model.context.parameters(), *self.model.up.parameters(), *self.model.out.parameters()]
        return [Group(new), Group(known, ENCODER)]

    def batch(self, rng: np.random.Generator, progress: float) -> PictureBatch:
        """Draw samples, put tumors of some into others, and mix a few of the batches."""
        del progress
        drawn = [self.samples.draw(rng) for _ in range(self.options.batch)]
        images, masks = (
            torch.from_numpy(np.stack(arrays).astype(np.float32))[:, None]
            for arrays in ([one.image for one in drawn], [one.mask for one in drawn])
        )
        batch = pasted(PictureBatch(images, masks), rng, share=self.options.pasted)
        return mixed(batch, rng) if rng.random() < self.options.mixed else batch

    def loss(self, batch: PictureBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy and Dice on all grids; Dice of the mask where there is a tumor, for the log."""
        found = self.model(batch.images)
        total = torch.stack(
            [weight * map_loss(one.float(), batch.masks) for weight, one in zip(WEIGHTS, found, strict=True)]
        ).sum()
        with torch.no_grad():
            height, width = found[-1].shape[2:]
            truth = F.adaptive_avg_pool2d(batch.masks, (height, width))
            ill = truth.flatten(1).amax(1) > 0.5
            overlap = 1 - dice((found[-1] > 0).float(), (truth > 0.5).float())
        return total, {"dice": float(overlap[ill].mean()) if bool(ill.any()) else 0.0}

    def export(self, model: PictureNetwork, folder: Path) -> None:
        """Write ``tumor-head-picture.safetensors``, or that of another part."""
        save_picture(folder / file_of_picture(self.options.part), model)


def map_loss(log_odds: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and Dice of a map ``(B, 1, h, w)`` for masks ``(B, 1, H, W)`` in [0, 1]."""
    height, width = log_odds.shape[2:]
    truth = F.adaptive_avg_pool2d(masks, (height, width))
    errors = F.binary_cross_entropy_with_logits(log_odds, truth, weight=1 + (TUMOR - 1) * truth)
    ill = (truth.flatten(1).amax(1) > 0.3).float()
    return CROSS_ENTROPY * errors + (dice(log_odds.sigmoid(), truth) * ill.clamp(min=HEALTHY)).mean()


def pasted(batch: PictureBatch, rng: np.random.Generator, *, share: float) -> PictureBatch:
    """Pictures of which some hold the tumor of another one, at the same place and with soft borders."""
    count = len(batch.images)
    other = torch.from_numpy(rng.permutation(count))
    chosen = torch.from_numpy(rng.random((count, 1, 1, 1)) < share).float()
    tumor = batch.masks[other] * chosen
    around = F.max_pool2d(tumor, FADED, 1, FADED // 2)
    around = F.avg_pool2d(around, FADED, 1, FADED // 2)
    images = torch.lerp(batch.images, batch.images[other], around)
    return PictureBatch(images, torch.maximum(batch.masks * (around < 0.5), tumor))


def mixed(batch: PictureBatch, rng: np.random.Generator) -> PictureBatch:
    """Pictures and masks, each mixed with that of another (mixup, Zhang et al. 2018)."""
    other = torch.from_numpy(rng.permutation(len(batch.images)))
    share = float(rng.beta(0.5, 0.5))
    share = min(share, 1 - share)
    return PictureBatch(*(torch.lerp(one, one[other], share) for one in batch))
