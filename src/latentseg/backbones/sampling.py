"""What sampling from a frozen denoiser needs: reproducible noise, guidance, and steps of time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from latentseg.backbones.base import Backbone, FillsHoles


def noise(shape: Sequence[int], *, keys: Sequence[str], seed: int) -> Tensor:
    """Standard normal noise ``(len(keys), *shape)``, each item a function of ``(seed, key)`` alone.

    It is drawn on the CPU, so that neither batch, order, shard nor device change it.
    """
    return torch.stack([torch.randn(*shape, generator=generator(seed, key)) for key in keys])


def generator(seed: int, key: str) -> torch.Generator:
    """A generator for one item."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def predict(
    backbone: Backbone,
    latents: Tensor,
    t: float,
    condition: Tensor,
    guidance: float,
    *,
    context: Tensor | None = None,
) -> Tensor:
    """What the denoiser predicts at time ``t``, with classifier-free guidance (Ho & Salimans 2022).

    Args:
        backbone: Its zero token is the unconditional condition.
        latents: ``(B, C, ...)``.
        t: In (0, 1].
        condition: ``(1 | B, T, D)``.
        guidance: 1 evaluates the conditional denoiser alone, 0 the unconditional one.
        context: ``(B, 1 + C, ...)``, what is around holes, for a denoiser that was shown some.
    """
    nothing = torch.zeros_like(condition[:1])
    if guidance in (0.0, 1.0):
        return _evaluated(backbone, latents, t, condition if guidance else nothing, context)
    tokens = torch.cat([part.expand(len(latents), -1, -1) for part in (condition, nothing)])
    twice = None if context is None else torch.cat([context, context])
    said, silent = _evaluated(backbone, torch.cat([latents, latents]), t, tokens, twice).chunk(2)
    return silent + guidance * (said - silent)


def _evaluated(
    backbone: Backbone, latents: Tensor, t: float, tokens: Tensor, context: Tensor | None
) -> Tensor:
    timestep = backbone.schedule.timestep(t)
    if context is not None and isinstance(backbone, FillsHoles):
        return backbone.denoise_hole(latents, timestep, tokens, context)
    return backbone.denoise(latents, timestep, tokens)


def intervals(steps: int, *, start: float = 1.0) -> list[tuple[float, float]]:
    """Equal steps of time ``(t, to)`` from ``start`` down to 0."""
    times = [start * (1 - i / steps) for i in range(steps + 1)]
    return list(pairwise(times))
