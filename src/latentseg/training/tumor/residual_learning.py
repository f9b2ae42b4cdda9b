"""Residual learning: the projector of the feature residual, trained on what inpainting changes.

That the paper learns its residuals is in its title; its network and loss are not known. Here the cosine of
the projected change and the abnormal text is the logit of a lesion inside the hole, with a learned scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentseg.errors import ModelError
from latentseg.methods.diffugts.attention_maps import ABNORMAL
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask
from latentseg.methods.diffugts.refinement import dilated
from latentseg.methods.diffugts.residuals import FeatureProjector
from latentseg.methods.tumor import network as files
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.queries import Queries
from latentseg.training.loop import Task
from latentseg.training.tumor.blocks import Block, backbone_for
from latentseg.training.tumor.losses import dice

SCALE, RARITY = 5.0, -1.0  # of the cosine, at first; and the logit where nothing changed


class ResidualHead(nn.Module):
    """A projector, and what makes a logit of its cosine.

    Args:
        projector: Trained with it.
    """

    def __init__(self, projector: FeatureProjector) -> None:
        super().__init__()
        self.projector = projector
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.bias = nn.Parameter(torch.tensor(RARITY))

    def forward(self, change: Tensor, texts: Tensor) -> Tensor:
        """Logits ``(B, 1, ...)`` of changes of latents ``(B, C, ...)`` for abnormal texts ``(B, D)``."""
        logits: Tensor = self.scale * self.projector(change, texts) + self.bias
        return logits


class ResidualBatch(NamedTuple):
    """Changes of latents ``(B, C, ...)``, texts ``(B, D)``, masks and holes ``(B, 1, ...)`` on their grid."""

    change: Tensor
    texts: Tensor
    masks: Tensor
    holes: Tensor


class ResidualTask(Task[ResidualHead]):
    """Trains the projector on blocks whose holes are known lesions, dilated.

    Args:
        draw: Draws the block of a number.
        count: Blocks that are inpainted, once each.
        stages: Frozen; their backbone has a denoiser.
        network: Whose projector is trained.
        condition: Tokens of the denoiser for phrases.
        queries: Reads prompts.
        metadata: Facts for the file of the weights.

    Raises:
        ModelError: The network has no projector.
    """

    def __init__(  # noqa: PLR0913 - everything that a training needs
        self,
        draw: Callable[[int], Block],
        *,
        count: int,
        stages: FrozenStages,
        network: TumorNetwork,
        condition: Callable[[Sequence[str]], Tensor],
        queries: Queries,
        metadata: dict[str, str],
        inpainting: InpaintingOptions,
    ) -> None:
        if network.projector is None:
            raise ModelError("there is no projector to train", fix="set network.projected to 4")
        self.draw, self.count, self.stages, self.network = draw, count, stages, network
        self.condition, self.queries, self.metadata = condition, queries, metadata
        self.inpainting = inpainting
        self.projector = network.projector
        self.model = ResidualHead(network.projector)
        self.kept: dict[int, ResidualBatch] = {}

    def batch(self, rng: np.random.Generator, progress: float) -> ResidualBatch:
        """Draw a block, and inpaint it when it is drawn for the first time."""
        del progress
        row = int(rng.integers(self.count))
        if row not in self.kept:
            self.kept[row] = self._inpainted(row)
        return self.kept[row]

    @torch.no_grad()
    def _inpainted(self, row: int) -> ResidualBatch:
        block = self.draw(row)
        backbone = backbone_for(self.stages.backbone, block)
        query = self.queries(block.finding, block.modality)
        image, mask = (torch.from_numpy(a)[None, None].float() for a in (block.image, block.mask))
        holes = pool_mask(dilated(mask, backbone.downscale), backbone.downscale)
        latents = backbone.encode(image)
        key, tokens = [f"residual/{row}"], self.condition(query.healthy)
        filled = inpaint(backbone, latents, holes, tokens, keys=key, options=self.inpainting)
        small = (F.avg_pool3d(mask, backbone.downscale) >= 0.5).float()
        return ResidualBatch((latents - filled).cpu(), query.texts[:, ABNORMAL], small, holes)

    def loss(self, batch: ResidualBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy and Dice inside the holes."""
        logits: Tensor = self.model(batch.change, batch.texts)
        errors = F.binary_cross_entropy_with_logits(logits, batch.masks, reduction="none") * batch.holes
        wrong = errors.sum() / batch.holes.sum().clamp(min=1)
        missed = dice(logits.sigmoid() * batch.holes, batch.masks).mean()
        return wrong + missed, {"dice": float(1 - missed.detach())}

    def export(self, model: ResidualHead, folder: Path) -> None:
        """Write ``tumor.safetensors``."""
        self.projector.load_state_dict(model.projector.state_dict())
        files.save(folder / files.FILE, self.network, self.metadata)
