"""Noise schedules: how clean latents turn into noise over a time from 0 (clean) to 1 (noise).

Two kinds cover the backbones: rectified flows (compact, MAISI rflow), whose network predicts a velocity, and
variance-preserving diffusion (Stable Diffusion, MAISI ddpm), whose network predicts the noise. Steps are
deterministic (Euler; DDIM with eta = 0) and of any length, so that samplers may jump back and start anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

TRAIN_STEPS = 1000


class Schedule(Protocol):
    """Between clean latents and noise."""

    def timestep(self, t: float) -> int:
        """The step of the network's training schedule that stands for ``t``."""

    def noised(self, clean: Tensor, noise: Tensor, t: float) -> Tensor:
        """``q(z_t | z_0)``: clean latents with the noise of time ``t``."""

    def step(self, latents: Tensor, prediction: Tensor, t: float, to: float) -> Tensor:
        """From ``z_t`` and what the network predicts there to ``z_to``, ``to < t``."""

    def clean(self, latents: Tensor, prediction: Tensor, t: float) -> Tensor:
        """The estimate of ``z_0`` at ``t``."""

    def renoised(self, latents: Tensor, noise: Tensor, t: float, to: float) -> Tensor:
        """``q(z_to | z_t)``: more noise, ``to > t``."""


class RectifiedFlow:
    """``z_t = (1 - t) z + t noise``; the network predicts ``noise - z`` (Liu et al. 2023)."""

    def timestep(self, t: float) -> int:
        """``1000 t``, rounded."""
        return round(TRAIN_STEPS * t)

    def noised(self, clean: Tensor, noise: Tensor, t: float) -> Tensor:
        """A point on the line from clean latents to noise."""
        return (1 - t) * clean + t * noise

    def step(self, latents: Tensor, prediction: Tensor, t: float, to: float) -> Tensor:
        """Euler's step along the velocity."""
        return latents + (to - t) * prediction

    def clean(self, latents: Tensor, prediction: Tensor, t: float) -> Tensor:
        """Where the velocity leads at time 0."""
        return latents - t * prediction

    def renoised(self, latents: Tensor, noise: Tensor, t: float, to: float) -> Tensor:
        """Scaled so that the share of the clean latents is that of ``to``."""
        keep = (1 - to) / (1 - t) if t < 1 else 0.0
        return keep * latents + math.sqrt(max(to**2 - (keep * t) ** 2, 0.0)) * noise


class VariancePreserving:
    """``z_t = sqrt(a_t) z + sqrt(1 - a_t) noise``; the network predicts the noise (Ho et al. 2020).

    Args:
        beta_start: First of the betas.
        beta_end: Last of the betas.
        kind: ``scaled_linear`` (linear in the root) or ``linear``.
    """

    def __init__(
        self, beta_start: float = 0.00085, beta_end: float = 0.012, *, kind: str = "scaled_linear"
    ) -> None:
        power = {"scaled_linear": 0.5, "linear": 1.0}[kind]
        betas = torch.linspace(beta_start**power, beta_end**power, TRAIN_STEPS, dtype=torch.float64)
        self._kept = torch.cumprod(1 - betas ** (1 / power), 0)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VariancePreserving:
        """From the scheduler configuration that lies beside a model.

        Raises:
            KeyError: A kind of betas, or a prediction, that is not known here.
        """
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise KeyError(config["prediction_type"])
        return cls(config["beta_start"], config["beta_end"], kind=config["beta_schedule"])

    def timestep(self, t: float) -> int:
        """``1000 t - 1``, rounded, at least 0."""
        return max(round(TRAIN_STEPS * t) - 1, 0)

    def noised(self, clean: Tensor, noise: Tensor, t: float) -> Tensor:
        """Clean latents and noise with weights whose squares sum to 1."""
        signal, spread = self._weights(t)
        return signal * clean + spread * noise

    def step(self, latents: Tensor, prediction: Tensor, t: float, to: float) -> Tensor:
        """DDIM's step without new noise (Song et al. 2021)."""
        return self.noised(self.clean(latents, prediction, t), prediction, to)

    def clean(self, latents: Tensor, prediction: Tensor, t: float) -> Tensor:
        """The latents without the predicted noise."""
        signal, spread = self._weights(t)
        return (latents - spread * prediction) / signal

    def renoised(self, latents: Tensor, noise: Tensor, t: float, to: float) -> Tensor:
        """More noise, variance kept."""
        (before, spread), (after, wanted) = self._weights(t), self._weights(to)
        keep = after / before
        return keep * latents + math.sqrt(max(wanted**2 - (keep * spread) ** 2, 0.0)) * noise

    def _weights(self, t: float) -> tuple[float, float]:
        kept = 1.0 if t <= 0 else float(self._kept[self.timestep(t)])
        return math.sqrt(kept), math.sqrt(1 - kept)
