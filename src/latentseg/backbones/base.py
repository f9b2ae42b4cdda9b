"""The interface of a backbone: a frozen latent diffusion model as the segmentation methods use it.

A new model is added by a class that implements :class:`Backbone` and by an entry in the registry; no method
knows which model it runs on. Images have one channel of grey values in [-1, 1]. A model that was trained on
RGB repeats the channel on the way in and averages the three channels on the way out, so that no method has to
deal with color.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from latentseg.backbones.schedules import Schedule


@runtime_checkable
class Backbone(Protocol):
    """A frozen autoencoder and a denoiser in its latent space.

    Shapes are those of a 2-D backbone (``dims == 2``); a 3-D backbone has ``(B, 1, D, H, W)`` in place of
    ``(B, 1, H, W)`` everywhere. Latents are scaled to about unit variance, as the denoiser expects them. The
    methods draw no random numbers, keep no state between calls, and return float32 on the model's device.

    Attributes:
        name: The name under which the registry knows the backbone.
        dims: Number of spatial dimensions, 2 or 3.
        image_size: Edge in pixels of the square slices that the model expects.
        latent_channels: ``C``, channels of a latent.
        downscale: Pixels of the image per pixel of the latent, along each edge.
        condition_dim: ``D``, the width of a condition token of the denoiser.
        schedule: How the denoiser's latents turn to noise, and what it predicts.
    """

    @property
    def device(self) -> torch.device:
        """The device of the networks; inputs are moved to it."""

    name: str
    dims: int
    image_size: int
    latent_channels: int
    downscale: int
    condition_dim: int
    schedule: Schedule

    def encode(self, images: Tensor) -> Tensor:
        """Encode images in [-1, 1].

        Args:
            images: ``(B, 1, H, W)``.

        Returns:
            Scaled mean of the posterior, ``(B, C, h, w)`` with ``h = H / downscale``.
        """

    def encode_with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What :meth:`encode` and :meth:`features` (of the encoder) return, from one pass."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents ``(B, C, h, w)`` to grey images ``(B, 1, H, W)``, not clipped to [-1, 1]."""

    def decode_rgb(self, latents: Tensor) -> Tensor:
        """Decode scaled latents ``(B, C, h, w)`` to all channels of the model, ``(B, 3, H, W)``, not clipped.

        A model made for one channel returns that channel alone, ``(B, 1, H, W)``.
        """

    def features(self, images: Tensor, *, timestep: int | None = None) -> list[Tensor]:
        """Frozen features of images ``(B, 1, H, W)``, finest grid first: a list of ``(B, C_i, h_i, w_i)``.

        They are the stages of the encoder and, at a timestep, those of the denoiser's decoder, which sees the
        clean latents and an empty (zero) condition.
        """

    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """Evaluate the denoiser once.

        Args:
            latents: ``(B, C, h, w)``, scaled and noisy.
            timestep: Step of the model's own training schedule.
            condition: Condition tokens ``(B, T, D)``, or ``(1, T, D)`` for all of the batch.

        Returns:
            What the model predicts (noise, velocity or image, as it was trained), ``(B, C, h, w)``.
        """


@runtime_checkable
class FillsHoles(Protocol):
    """A backbone whose denoiser was trained for inpainting, that is, to fill holes.

    Attributes:
        fills_holes: Whether the loaded weights are of this kind; a class may load weights of both kinds.
    """

    @property
    def fills_holes(self) -> bool:
        """Whether the loaded weights were trained to fill holes."""

    def denoise_hole(self, latents: Tensor, timestep: int, condition: Tensor, context: Tensor) -> Tensor:
        """Evaluate the denoiser once, given the surroundings of the holes.

        Args:
            latents: ``(B, C, h, w)``, scaled and noisy.
            timestep: Step of the model's own training schedule.
            condition: Condition tokens ``(B, T, D)``, or ``(1, T, D)`` for all of the batch.
            context: ``(B, 1 + C, h, w)`` of :func:`hole_context`.

        Returns:
            What the model predicts, ``(B, C, h, w)``; only the values inside the holes are meaningful.
        """


@runtime_checkable
class TakesVolumes(Protocol):
    """A 3-D backbone, which is set up for the shape and spacing of a volume before it is used.

    Attributes:
        multiple: The edges of a volume, in voxels, have to be multiples of this number.
        window_hu: The CT window that the model was trained with, in Hounsfield units.
    """

    multiple: int
    window_hu: tuple[float, float]

    def for_volume(
        self, shape: tuple[int, int, int], *, spacing_mm: tuple[float, float, float] | None = None
    ) -> Backbone:
        """The same model for volumes ``(D, H, W)`` of one shape and spacing."""

    def require_memory(self, shape: tuple[int, int, int], *, inpainting: bool, beside: int = 0) -> str:
        """Check, before anything is computed, that a volume fits into the free memory.

        Args:
            shape: ``(D, H, W)``.
            inpainting: Whether the volume is inpainted as well, which takes more memory.
            beside: Bytes that other data take at the same time.

        Returns:
            How much memory the volume takes, in one sentence.

        Raises:
            MemoryLimitError: The volume does not fit; the error says which size would.
        """


def hole_context(latents: Tensor, holes: Tensor) -> Tensor:
    """The extra input of a denoiser that fills holes: where they are, and the latents around them.

    Args:
        latents: Clean latents ``(B, C, ...)``.
        holes: ``(B, 1, ...)``, 1 inside; 1 everywhere asks for a whole image.

    Returns:
        The holes, and the latents with nothing inside them, ``(B, 1 + C, ...)``.
    """
    inside = holes.to(latents)
    return torch.cat([inside, latents * (1 - inside)], 1)
