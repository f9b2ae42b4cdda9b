"""A light decoder of mask latents, distilled from the autoencoder's: the same picture at little of the work.

    target = D(z) as a probability,  z = sample E(mask) + noise;  loss = cross-entropy of head(z) and target

The noise makes latents as the network predicts them, near those of masks. The rules of the release keep the
autoencoder's decoder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as serialize
from torch import Tensor

from latentseg.backbones.compact import MaskHead
from latentseg.imaging.files import write_file
from latentseg.methods.sdfsmis.mask_decoding import mask_images, probabilities
from latentseg.training.fewshot.frozen import FrozenParts
from latentseg.training.fewshot.pairs import Pairs
from latentseg.training.loop import LoopOptions, Task, trained

PAIRS = 4  # of a batch
NOISE = 0.3  # largest standard deviation, latents being of about 1


class MaskHeadTask(Task[MaskHead]):
    """What the loop trains.

    Args:
        parts: The frozen side, whose decoder is the teacher.
        pairs: Draws masks.
        seed: Of the initial weights.
    """

    def __init__(self, parts: FrozenParts, pairs: Pairs, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.parts, self.pairs = parts, pairs
        self.frozen_networks = [parts]
        self.model = MaskHead(parts.latent_channels, downscale=parts.downscale)

    def batch(self, rng: np.random.Generator, progress: float) -> Tensor:  # noqa: ARG002
        """Masks ``(B, S, S)`` in {0, 1}."""
        drawn = self.pairs.draw(rng, PAIRS)
        return torch.cat([drawn.support_masks, drawn.query_masks])

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy with what the decoder draws, and the Dice of both, cut at one half."""
        with torch.no_grad():
            latents = self.parts.sample(mask_images(batch))
            strength = NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
            latents = latents + strength * torch.randn_like(latents)
            target = probabilities(self.parts.decode(latents))
        logits = self.model(latents)[:, 0]
        drawn, true = logits.detach() > 0, target > 0.5
        dice = 2 * (drawn & true).sum() / (drawn.sum() + true.sum()).clamp(min=1)
        return F.binary_cross_entropy_with_logits(logits, target), {"dice": float(dice)}

    def export(self, model: MaskHead, folder: Path) -> None:
        """Write ``mask_head.safetensors``."""
        state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        write_file(folder / "mask_head.safetensors", serialize(state))


def distilled(parts: FrozenParts, pairs: Pairs, options: LoopOptions, folder: Path) -> dict[str, Tensor]:
    """The state of a light decoder, trained in a folder or on from what is there.

    Raises:
        ModelError: The folder holds a training of something else.
        KeyboardInterrupt: It was stopped, with a checkpoint.
    """
    task = MaskHeadTask(parts, pairs, seed=options.seed)
    return dict(trained(task, options, folder, resume=True).state_dict())
