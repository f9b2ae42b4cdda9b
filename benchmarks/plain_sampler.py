"""Draws latents from a backbone's denoiser, without anything that they have to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.backbones.sampling import intervals, noise, predict
from latentseg.errors import UsageError


@dataclass(frozen=True)
class SamplingOptions:
    """How latents are drawn.

    Attributes:
        steps: Evaluations of the denoiser, two of them batched in one where guidance is used.
        guidance: Weight of classifier-free guidance; 1 follows the condition alone, 0 ignores it.
        seed: Of all draws, together with the key of each item.
        slab: Items that go through the denoiser at a time.
    """

    steps: int = 25
    guidance: float = 2.0
    seed: int = 0
    slab: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"{self.steps} sampling steps", fix="take 1 or more")


def sample(
    backbone: Backbone,
    condition: Tensor,
    *,
    keys: Sequence[str],
    options: SamplingOptions | None = None,
    size: int | None = None,
) -> Tensor:
    """Draw one latent per key.

    Args:
        backbone: Any backbone with a denoiser.
        condition: Tokens ``(1, T, D)`` for all, or ``(len(keys), T, D)``.
        keys: Names of the items; the same name and seed give the same latent.
        options: Steps, guidance, seed.
        size: Edge of the latents; that of the backbone's images when left out.

    Returns:
        Scaled clean latents ``(len(keys), C, h, w)``.
    """
    options = options or SamplingOptions()
    edge = size or backbone.image_size // backbone.downscale
    shape = (backbone.latent_channels, *[edge] * backbone.dims)
    out = []
    for start in range(0, len(keys), options.slab):
        at = slice(start, start + options.slab)
        latents = noise(shape, keys=keys[at], seed=options.seed).to(backbone.device)
        tokens = condition if len(condition) == 1 else condition[at]
        for t, to in intervals(options.steps):
            prediction = predict(backbone, latents, t, tokens, options.guidance)
            latents = backbone.schedule.step(latents, prediction, t, to)
        out.append(latents)
    return torch.cat(out)
