"""MAISI: NVIDIA's 3-D latent diffusion models of CT and of brain MR, on monai's classes.

DiffuGTS is built on them. The convention outside is that of every backbone here: slices ``(S, H, W)`` in LPS
order, intensities in [-1, 1]. Inside, MAISI sees what it was trained with: axes in RAS order, [0, 1].
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn

from latentseg.backbones.maisi_networks import VARIANTS, find_variant, load_networks, with_sliced_pools
from latentseg.backbones.maisi_tiling import run_blocks
from latentseg.backbones.schedules import RectifiedFlow, Schedule, VariancePreserving
from latentseg.errors import UsageError

FEATURE_BLOCKS = (2, 5, 8)
"""Ends of the encoder's three stages: 64 channels at full size, 128 at a half, 256 at a quarter."""

MODALITIES = {
    "unknown": 0,
    "ct": 1,
    "ct without contrast": 2,
    "ct with contrast": 3,
    "mr": 8,
    "t1": 9,
    "t2": 10,
    "flair": 11,
    "pd": 12,
    "dwi": 13,
    "adc": 14,
}
REGIONS = ("head", "chest", "abdomen", "pelvis")
CT_WINDOW_HU = (-1000.0, 1000.0)
MULTIPLE = (
    32  # of voxels along each edge: 4 per latent, and 8 latents per cell of the denoiser's coarsest level
)
TOKEN_WIDTH = 6
_BASE_LATENT = 32**3  # cells of the latents for which the published times are equidistant


@dataclass(frozen=True)
class MaisiCondition:
    """What a MAISI denoiser listens to. It knows no text.

    Attributes:
        modality: A key of :data:`MODALITIES`, or an id of the published embedding; ``unknown`` is what the
            published guidance takes as the unconditional case.
        spacing_mm: Of the slices, their rows and their columns ``(S, H, W)``; that of the backbone when None.
        regions: The topmost and the lowest body region in the volume, of :data:`REGIONS`. Only
            ``maisi-ct-ddpm`` asks for them.
    """

    modality: str | int = "ct"
    spacing_mm: tuple[float, float, float] | None = None
    regions: tuple[str, str] = ("chest", "abdomen")

    def token(self) -> Tensor:
        """As a condition token ``(1, 1, 6)``: id, spacing, regions; a zero stands for what was not said.

        Raises:
            UsageError: An unknown modality or region, or a spacing that is not positive.
        """
        spacing = self.spacing_mm or (0.0, 0.0, 0.0)
        if self.spacing_mm is not None and min(spacing) <= 0:
            raise UsageError(f"spacing {spacing} mm", fix="give three positive lengths in millimeters")
        regions = [1 + _choice(name, REGIONS, "region") for name in self.regions]
        return (
            torch.tensor([modality_id(self.modality), *spacing, *regions]).float().reshape(1, 1, TOKEN_WIDTH)
        )


@dataclass(frozen=True)
class MaisiOptions:
    """How MAISI is placed and run.

    Attributes:
        dtype: Of the weights and of the arithmetic; results are float32, statistics too.
        device: Where the model is.
        rows: Rows that go through a layer of the autoencoder at a time. Memory grows with it a little, the
            result does not depend on it.
        spacing_mm: Of the volumes, ``(S, H, W)``, where a condition does not say.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    rows: int = 16
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5)


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


class MaisiBackbone:
    """A MAISI model as a :class:`~latentseg.backbones.base.Backbone` of volumes ``(B, 1, D, H, W)``.

    Args:
        autoencoder: Its encoder and decoder run slab by slab over whole volumes.
        unet: The denoiser.
        scale_factor: Brings latents to unit variance; it comes with the denoiser.
        variant: A key of :data:`~latentseg.backbones.maisi_networks.VARIANTS`.
        options: Precision, device.
    """

    dims, image_size, latent_channels, downscale = 3, 256, 4, 4
    condition_dim = TOKEN_WIDTH

    def __init__(
        self,
        autoencoder: AutoencoderKlMaisi,
        unet: DiffusionModelUNetMaisi,
        *,
        scale_factor: float,
        variant: str = "maisi-ct-rflow",
        options: MaisiOptions | None = None,
    ) -> None:
        self.name, self.scale_factor = variant, scale_factor
        self.options = options or MaisiOptions()
        self.flow = VARIANTS[variant].flow
        self.schedule: Schedule = RectifiedFlow() if self.flow else VariancePreserving(0.0015, 0.0195)
        self.autoencoder = self._placed(autoencoder)
        self.unet = self._placed(with_sliced_pools(unet))

    @classmethod
    def from_folder(
        cls, path: str | Path, *, variant: str | None = None, options: MaisiOptions | None = None
    ) -> MaisiBackbone:
        """Load the published files from a folder, where they are in it or in its ``models/``.

        Args:
            path: Holds ``autoencoder_v1`` and one denoiser, each as ``.pt`` or ``.safetensors``. A ``.pt`` is
                read once and kept as ``.safetensors`` beside it.
            variant: Which denoiser; may be left out where there is only one.
            options: Precision, device.

        Raises:
            ModelError: A file is missing or damaged, or is of another model.
        """
        folder = Path(path)
        variant = variant or find_variant(folder)
        autoencoder, unet, scale = load_networks(folder, variant)
        return cls(autoencoder, unet, scale_factor=scale, variant=variant, options=options)

    def for_volume(
        self, shape: tuple[int, int, int], *, spacing_mm: tuple[float, float, float] | None = None
    ) -> MaisiBackbone:
        """The same model, with the published times for volumes of this shape and with their spacing.

        Args:
            shape: ``(D, H, W)``.
            spacing_mm: In the same order; what conditions mean that do not name one.
        """
        fitted = copy.copy(self)
        if self.flow:
            fitted.schedule = VolumeFlow(tuple(n // self.downscale for n in shape))
        fitted.options = replace(self.options, spacing_mm=spacing_mm or self.options.spacing_mm)
        return fitted

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior mean ``(B, 4, D/4, H/4, W/4)`` of volumes ``(B, 1, D, H, W)`` in [-1, 1].

        Raises:
            UsageError: Edges that are no multiples of 4.
        """
        return torch.cat([self._encode(image)[0] for image in images.split(1)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Volumes ``(B, 1, D, H, W)`` of scaled latents, not clipped."""
        return torch.cat([self._decode(item) for item in latents.split(1)])

    def decode_rgb(self, latents: Tensor) -> Tensor:
        """The one channel there is, ``(B, 1, D, H, W)``."""
        return self.decode(latents)

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """The encoder's stages, finest first: 64, 128 and 256 channels at 1, 1/2 and 1/4 of the size."""
        items = [self._encode(image, keep=FEATURE_BLOCKS)[1] for image in images.split(1)]
        return [torch.cat(stage) for stage in zip(*items, strict=True)]

    @torch.no_grad()
    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """Prediction ``(B, 4, d, h, w)``: ``noise - z`` of the rectified flows, the noise of ``ddpm``.

        Args:
            latents: ``(B, 4, d, h, w)``, edges multiples of 8.
            timestep: 0 to 1000.
            condition: Of :meth:`MaisiCondition.token`, ``(B | 1, 1, 6)``. A zero token is an unknown modality
                at the spacing of the options.

        Raises:
            UsageError: Edges that are no multiples of 8.
        """
        check_multiple(latents, MULTIPLE // self.downscale, what="latents")
        batch = len(latents)
        inputs = self._conditions(condition.expand(batch, -1, -1)[:, 0])
        times = torch.full((batch,), float(timestep), device=self.options.device)
        out: Tensor = self.unet(self._inward(latents), times, **inputs)
        return _outward(-out if self.flow else out)  # MAISI's velocity points from noise to the image

    def _encode(self, image: Tensor, keep: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor]]:
        check_multiple(image, self.downscale, what="images")
        blocks, rows = self.autoencoder.encoder.blocks, self.options.rows
        last, stages = run_blocks(blocks, self._inward((image + 1) / 2), rows=rows, keep=keep)
        mean = self.autoencoder.quant_conv_mu(last)
        return _outward(mean) * self.scale_factor, [_outward(stage) for stage in stages]

    def _decode(self, latents: Tensor) -> Tensor:
        blocks, rows = self.autoencoder.decoder.blocks, self.options.rows
        z = self.autoencoder.post_quant_conv(self._inward(latents / self.scale_factor))
        return 2 * _outward(run_blocks(blocks, z, rows=rows)[0]) - 1

    def _conditions(self, tokens: Tensor) -> dict[str, Tensor]:
        """The denoiser's own inputs, from tokens ``(B, 6)``."""
        modality, spacing, regions = tokens.split([1, 3, 2], 1)
        usual = torch.tensor(self.options.spacing_mm).to(spacing).expand_as(spacing)
        spacing = torch.where(spacing > 0, spacing, usual).flip(1)  # (S, H, W) to MAISI's (x, y, z)
        inputs = {"spacing_tensor": self._hundredfold(spacing)}
        if self.unet.num_class_embeds is not None:
            inputs["class_labels"] = modality[:, 0].round().long().to(self.options.device)
        if self.unet.include_top_region_index_input:
            usual = MaisiCondition().token()[0, :, 4:].to(regions)
            known = torch.where(regions > 0, regions, usual).long() - 1
            top, bottom = nn.functional.one_hot(known, len(REGIONS)).unbind(1)
            inputs["top_region_index_tensor"] = self._hundredfold(top)
            inputs["bottom_region_index_tensor"] = self._hundredfold(bottom)
        return inputs

    def _hundredfold(self, x: Tensor) -> Tensor:
        """The unit of MAISI's spacings and region indices."""
        return (100.0 * x).to(self.options.device, self.options.dtype)

    def _inward(self, x: Tensor) -> Tensor:
        """``(B, C, S, H, W)`` in LPS order to MAISI's ``(B, C, X, Y, Z)`` in RAS order, placed and cast."""
        turned = x.to(self.options.device, self.options.dtype).permute(0, 1, 4, 3, 2).flip(2, 3)
        return turned.contiguous(memory_format=torch.channels_last_3d)

    def _placed(self, network: Any) -> Any:
        layout = torch.channels_last_3d
        network.to(device=self.options.device, dtype=self.options.dtype, memory_format=layout)
        return network.eval().requires_grad_(requires_grad=False)


def modality_id(modality: str | int) -> int:
    """MAISI's id of a modality.

    Raises:
        UsageError: Unknown.
    """
    if isinstance(modality, int):
        if not 0 <= modality < 128:
            raise UsageError(f"modality id {modality}", fix="give one from 0 to 127")
        return modality
    return MODALITIES[list(MODALITIES)[_choice(modality.lower(), tuple(MODALITIES), "modality")]]


def check_multiple(x: Tensor, multiple: int, *, what: str) -> None:
    """Require every spatial edge to be a multiple.

    Raises:
        UsageError: With the shape that would do.
    """
    shape = tuple(x.shape[2:])
    if any(n % multiple for n in shape):
        would_do = "x".join(str(-(-n // multiple) * multiple) for n in shape)
        seen = f"{what} of {'x'.join(map(str, shape))}"
        raise UsageError(seen, fix=f"pad them to {would_do}, edges must be multiples of {multiple}")


def _choice(name: str, choices: tuple[str, ...], what: str) -> int:
    if name not in choices:
        raise UsageError(f"unknown {what} {name!r}", fix=f"choose from {', '.join(choices)}")
    return choices.index(name)


def _outward(x: Tensor) -> Tensor:
    """The way back from :meth:`MaisiBackbone._inward`, as float32."""
    return x.float().flip(2, 3).permute(0, 1, 4, 3, 2)
