"""The times of MAISI's rectified flow, which depend on the size of the volume."""

from __future__ import annotations

import math

from torch import Tensor

from latentseg.backbones.schedules import RectifiedFlow

_BASE_LATENT = 32**3  # cells of the latents for which the published times are equidistant


class VolumeFlow(RectifiedFlow):
    """A rectified flow whose time runs as in MAISI's scheduler: the larger the volume, the longer in noise.

    Time ``t`` stands for the share ``r t / (1 + (r - 1) t)`` of noise, where ``r`` is the edge of the latents
    (their geometric mean) in units of 32 cells.

    Args:
        latent_shape: Spatial shape of the latents.
    """

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        self.ratio = math.pow(math.prod(latent_shape) / _BASE_LATENT, 1 / len(latent_shape))

    def share(self, t: float) -> float:
        """The share of noise at ``t``."""
        return self.ratio * t / (1 + (self.ratio - 1) * t)

    def timestep(self, t: float) -> int:
        """``1000`` times the share of noise, rounded."""
        return super().timestep(self.share(t))

    def noised(self, clean: Tensor, noise: Tensor, t: float) -> Tensor:
        """A point on the line from clean latents to noise."""
        return super().noised(clean, noise, self.share(t))

    def step(self, latents: Tensor, prediction: Tensor, t: float, to: float) -> Tensor:
        """Euler's step along the velocity."""
        return super().step(latents, prediction, self.share(t), self.share(to))

    def clean(self, latents: Tensor, prediction: Tensor, t: float) -> Tensor:
        """Where the velocity leads at time 0."""
        return super().clean(latents, prediction, self.share(t))

    def renoised(self, latents: Tensor, noise: Tensor, t: float, to: float) -> Tensor:
        """More noise."""
        return super().renoised(latents, noise, self.share(t), self.share(to))
