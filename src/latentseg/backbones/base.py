"""What a frozen latent diffusion model offers to a segmentation method.

A new backbone implements :class:`Backbone` and is named in the registry; nothing else in the package knows
which model is behind it. Grey values enter as one channel in [-1, 1]; a model that was made for RGB repeats
the channel itself and averages the channels of what it decodes, so that no method ever sees three equal
channels.
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
    ``(B, 1, H, W)`` everywhere. Latents are scaled to about unit variance, as the denoiser expects them. No
    method draws random numbers, none keeps state between calls, and all return float32 on the device of the
    model.

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
        """Where the networks are; inputs follow them."""
        ...

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
        ...

    def encode_with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What :meth:`encode` and :meth:`features` (of the encoder) return, from one pass."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents ``(B, C, h, w)`` to grey images ``(B, 1, H, W)``, not clipped to [-1, 1]."""
        ...

    def decode_rgb(self, latents: Tensor) -> Tensor:
        """Decode scaled latents ``(B, C, h, w)`` to all channels of the model, ``(B, 3, H, W)``, not clipped.

        A model made for one channel returns that channel alone, ``(B, 1, H, W)``.
        """
        ...

    def features(self, images: Tensor, *, timestep: int | None = None) -> list[Tensor]:
        """Frozen features of images ``(B, 1, H, W)``, finest grid first: a list of ``(B, C_i, h_i, w_i)``.

        They are the stages of the encoder and, at a timestep, those of the denoiser's decoder, which sees the
        clean latents and an empty (zero) condition.
        """
        ...

    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """One evaluation of the denoiser.

        Args:
            latents: ``(B, C, h, w)``, scaled and noisy.
            timestep: Step of the model's own training schedule.
            condition: Condition tokens ``(B, T, D)``, or ``(1, T, D)`` for all of the batch.

        Returns:
            What the model predicts (noise, velocity or image, as it was trained), ``(B, C, h, w)``.
        """
        ...


@runtime_checkable
class FillsHoles(Protocol):
    """A backbone whose denoiser was shown holes while it was trained.

    Attributes:
        fills_holes: Whether the weights at hand can; a class may serve both kinds.
    """

    @property
    def fills_holes(self) -> bool:
        """See the attribute of this name."""
        ...

    def denoise_hole(self, latents: Tensor, timestep: int, condition: Tensor, context: Tensor) -> Tensor:
        """One evaluation of the denoiser that knows what is around the holes.

        Args:
            latents: ``(B, C, h, w)``, scaled and noisy.
            timestep: Step of the model's own training schedule.
            condition: Condition tokens ``(B, T, D)``, or ``(1, T, D)`` for all of the batch.
            context: ``(B, 1 + C, h, w)`` of :func:`hole_context`.

        Returns:
            What the model predicts, ``(B, C, h, w)``; it means something in the holes alone.
        """
        ...


@runtime_checkable
class TakesVolumes(Protocol):
    """A 3-D backbone, which wants to know the volume before it works on it.

    Attributes:
        multiple: Of the edges of a volume in voxels.
        window_hu: Of CT, that it was trained with.
    """

    multiple: int
    window_hu: tuple[float, float]

    def for_volume(
        self, shape: tuple[int, int, int], *, spacing_mm: tuple[float, float, float] | None = None
    ) -> Backbone:
        """The same model for volumes ``(D, H, W)`` of one shape and spacing."""
        ...

    def require_memory(self, shape: tuple[int, int, int], *, inpainting: bool, beside: int = 0) -> str:
        """Refuse a volume that would not fit, before anything is computed.

        Args:
            shape: ``(D, H, W)``.
            inpainting: Whether it is to be inpainted too, and not only looked at.
            beside: Bytes that something else takes meanwhile.

        Returns:
            What the volume takes, in one sentence.

        Raises:
            MemoryLimitError: It would not fit; with what would.
        """
        ...


def hole_context(latents: Tensor, holes: Tensor) -> Tensor:
    """What a denoiser is told of holes.

    Args:
        latents: Clean latents ``(B, C, ...)``.
        holes: ``(B, 1, ...)``, 1 inside; 1 everywhere asks for a whole image.

    Returns:
        The holes, and the latents with nothing inside them, ``(B, 1 + C, ...)``.
    """
    inside = holes.to(latents)
    return torch.cat([inside, latents * (1 - inside)], 1)
