"""A backbone whose denoiser is known in closed form; loaded with ``runpy`` by the tests of samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from latentseg.backbones.schedules import RectifiedFlow


class GaussianBackbone:
    """The exact flow of independent normal latents: mean ``mean + 2 * first token``, deviation ``spread``."""

    name, dims, image_size, latent_channels, downscale, condition_dim = "toy", 2, 64, 3, 8, 5
    schedule = RectifiedFlow()
    device = torch.device("cpu")

    def __init__(self, mean: float = 0.5, spread: float = 0.7) -> None:
        self.mean, self.spread, self.calls = mean, spread, 0

    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """``E[noise - z | z_t]``."""
        self.calls += 1
        t = timestep / 1000
        mean = self.mean + 2 * condition[:, 0, 0].reshape(-1, *[1] * (latents.ndim - 1))
        variance = (1 - t) ** 2 * self.spread**2 + t**2
        centered = latents - (1 - t) * mean
        clean = mean + (1 - t) * self.spread**2 / variance * centered
        return t / variance * centered - clean


def tokens(value: float = 0.0) -> Tensor:
    """A condition that moves the mean by twice the value."""
    out = torch.zeros(1, 2, 5)
    out[0, 0, 0] = value
    return out
