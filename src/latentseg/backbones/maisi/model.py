"""MAISI: NVIDIA's 3-D latent diffusion models of CT and of brain MR, on monai's classes.

DiffuGTS is built on them. The convention outside is that of every backbone here: slices ``(S, H, W)`` in LPS
order, intensities in [-1, 1]. Inside, MAISI sees what it was trained with: axes in RAS order, [0, 1].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentseg.backbones.device import free_bytes
from latentseg.backbones.maisi.conditions import REGIONS, TOKEN_WIDTH, MaisiCondition
from latentseg.backbones.maisi.control import FILES, label_bits, load_controlnet
from latentseg.backbones.maisi.library import AutoencoderKlMaisi, DiffusionModelUNetMaisi
from latentseg.backbones.maisi.memory import GIB, MemoryEstimate, Sizes, estimate, require
from latentseg.backbones.maisi.networks import (
    VARIANTS,
    SlicedAveragePool,
    find_variant,
    for_inference,
    load_networks,
    read_changes,
)
from latentseg.backbones.maisi.tiling import run_blocks
from latentseg.backbones.maisi.volume_flow import VolumeFlow
from latentseg.backbones.schedules import RectifiedFlow, Schedule, VariancePreserving
from latentseg.backbones.stable_diffusion import captured
from latentseg.errors import ModelError, UsageError

FEATURE_BLOCKS = (2, 5, 8)
"""Ends of the encoder's three stages: 64 channels at full size, 128 at a half, 256 at a quarter."""

WORK = {
    "encode": "encoding",
    "features": "reading the features of",
    "denoise": "denoising",
    "decode": "decoding",
}
CT_WINDOW_HU = (-1000.0, 1000.0)
"""What the models were trained with; the window for :func:`latentseg.imaging.normalize`."""

MULTIPLE = 32
"""Of the edges in voxels: 4 voxels to a latent, 8 latents to a cell of the denoiser's coarsest level."""


@dataclass(frozen=True)
class MaisiOptions:
    """How MAISI is placed and run.

    Attributes:
        dtype: Of the weights and of the arithmetic; results are float32, statistics too.
        device: Where the model is.
        rows: Rows that go through a layer of the autoencoder at a time. Memory grows with it a little, the
            result does not depend on it.
        spacing_mm: Of the volumes, ``(S, H, W)``, where a condition does not say.
        feature_downscale: Features finer than one value per so many voxels of an edge are averaged down to
            it: 1, 2 or 4. The finest stage has 64 times the numbers of the image.
        memory_gib: Limit that work is checked against before it starts; what is free when None.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    rows: int = 16
    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 1.5)
    feature_downscale: int = 1
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        if self.feature_downscale not in (1, 2, 4):
            raise UsageError(f"features at 1/{self.feature_downscale} of the size", fix="take 1, 2 or 4")


class MaisiBackbone:
    """A MAISI model as a :class:`~latentseg.backbones.base.Backbone` of volumes ``(B, 1, D, H, W)``.

    Args:
        autoencoder: Its encoder and decoder run slab by slab over whole volumes.
        unet: The denoiser.
        scale_factor: Brings latents to unit variance; it comes with the denoiser.
        variant: A key of :data:`~latentseg.backbones.maisi.networks.VARIANTS`.
        options: Precision, device.
        controlnet: Guides the denoiser by a label map, see :meth:`guided_by`.
    """

    dims, image_size, latent_channels, downscale = 3, 256, 4, 4
    multiple, window_hu = MULTIPLE, CT_WINDOW_HU
    condition_dim = TOKEN_WIDTH

    def __init__(
        self,
        autoencoder: AutoencoderKlMaisi,
        unet: DiffusionModelUNetMaisi,
        *,
        scale_factor: float,
        variant: str = "maisi-ct-rflow",
        options: MaisiOptions | None = None,
        controlnet: nn.Module | None = None,
    ) -> None:
        self.name, self.scale_factor = variant, scale_factor
        self.options = options or MaisiOptions()
        self.flow = VARIANTS[variant].flow
        self.schedule: Schedule = RectifiedFlow() if self.flow else VariancePreserving(0.0015, 0.0195)
        self.autoencoder = self._placed(autoencoder)
        self.unet = self._placed(for_inference(unet))
        self.controlnet = None if controlnet is None else self._placed(controlnet)
        self._bits: Tensor | None = None
        networks = [net for net in (autoencoder, unet, controlnet) if net is not None]
        self._weights = sum(t.nbytes for net in networks for t in net.parameters())

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
        changes = read_changes(folder)
        config = VARIANTS[variant].unet | changes.get("diffusion_unet_def", {})
        control = load_controlnet(folder, variant, unet, config, changes.get("controlnet_def", {}))
        return cls(
            autoencoder, unet, scale_factor=scale, variant=variant, options=options, controlnet=control
        )

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

    def guided_by(self, labels: Tensor) -> MaisiBackbone:
        """The same model, whose denoiser is told the anatomy by the ControlNet.

        Args:
            labels: ``(1, 1, D, H, W)`` of MAISI's label ids, on the grid of the volumes.

        Raises:
            ModelError: The checkpoint of the ControlNet is not there.
            UsageError: Other numbers than label ids.
        """
        if self.controlnet is None:
            name = FILES.get(self.name, "a ControlNet")
            fix = f"put {name} beside the denoiser" if self.name in FILES else "take maisi-ct-rflow"
            raise ModelError("this model came without its ControlNet", where=self.name, fix=fix)
        guided = copy.copy(self)
        guided._bits = self._inward(label_bits(labels))
        return guided

    @property
    def device(self) -> torch.device:
        """Where the networks are; inputs follow them."""
        return torch.device(self.options.device)

    def encode_with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What :meth:`encode` and :meth:`features` of the encoder return, from one pass; errors as there."""
        return self._coded(images, None)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior mean ``(B, 4, D/4, H/4, W/4)`` of volumes ``(B, 1, D, H, W)`` in [-1, 1].

        Raises:
            UsageError: Edges that are no multiples of 4.
            MemoryLimitError: It would not fit; said before the start.
        """
        self._check(images.shape[2:], "encode")
        return torch.cat([self._encode(image)[0] for image in images.split(1)])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Volumes ``(B, 1, D, H, W)`` of scaled latents, not clipped.

        Raises:
            MemoryLimitError: It would not fit; said before the start.
        """
        self._check([self.downscale * n for n in latents.shape[2:]], "decode")
        return torch.cat([self._decode(item) for item in latents.split(1)])

    def decode_rgb(self, latents: Tensor) -> Tensor:
        """The one channel there is, ``(B, 1, D, H, W)``."""
        return self.decode(latents)

    def features(self, images: Tensor, *, timestep: int | None = None) -> list[Tensor]:
        """The encoder's stages, 64, 128 and 256 channels at 1, 1/2 and 1/4 of the size, finest first.

        At a timestep also the levels of the denoiser's decoder, which see the clean latents and a zero token:
        128 and 64 channels at 1/4, 256 at 1/8, 512 at 1/16 of the size.

        Raises:
            UsageError: Edges that are no multiples of 4, or of 32 where there is a timestep.
            MemoryLimitError: It would not fit; said before the start.
        """
        return self._coded(images, timestep)[1]

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
            MemoryLimitError: It would not fit; said before the start.
        """
        check_multiple(latents, MULTIPLE // self.downscale, what="latents")
        self._check([self.downscale * n for n in latents.shape[2:]], "denoise", batch=len(latents))
        batch = len(latents)
        inputs = self._conditions(condition.expand(batch, -1, -1)[:, 0])
        times = torch.full((batch,), float(timestep), device=self.options.device)
        inward = self._inward(latents)
        if self.controlnet is not None and self._bits is not None:
            told = self._bits.expand(batch, -1, -1, -1, -1)
            classes = inputs.get("class_labels") if self.controlnet.num_class_embeds is not None else None
            down, middle = self.controlnet(inward, times, told, class_labels=classes)
            inputs |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        out: Tensor = self.unet(inward, times, **inputs)
        return _outward(-out if self.flow else out)  # MAISI's velocity points from noise to the image

    def memory(self, shape: tuple[int, int, int]) -> MemoryEstimate:
        """What a volume ``(D, H, W)`` needs."""
        sizes = Sizes(
            item=self.options.dtype.itemsize,
            rows=self.options.rows,
            weights=self._weights,
            largest_weight=max(t.nbytes for t in self.unet.parameters()),
            width=self.unet.block_out_channels[0],
            feature_downscale=self.options.feature_downscale,
        )
        coders = (self.autoencoder.encoder.blocks, self.autoencoder.decoder.blocks)
        return estimate(shape, *coders, sizes=sizes)

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
        steps = ("features", "encode", "denoise", "decode") if inpainting else ("features",)
        for step in steps:
            self._check(shape, step, beside=beside)
        needs = {step: getattr(self.memory(shape), step) + beside for step in steps}
        most = max(steps, key=lambda step: needs[step])
        size = "x".join(map(str, shape))
        return f"{size} voxels take about {needs[most] / GIB:.1f} GiB, most of it while {WORK[most]} them"

    def _check(self, shape: Sequence[int], step: str, *, batch: int = 1, beside: int = 0) -> None:
        """Refuse what would not fit; the weights are in memory already."""
        limit, depth, height, width = self.options.memory_gib, *shape
        free = free_bytes(self.options.device) if limit is None else int(limit * GIB)
        needed: int = getattr(self.memory((depth, height, width)), step) + beside
        needed += (batch - 1) * (needed - self._weights) - (self._weights if limit is None else 0)
        also = [] if self.options.dtype.itemsize == 2 else ["compute in bfloat16"]
        if step == "features" and self.options.feature_downscale < 4:
            also.append("set feature_downscale=4")
        require(needed, free, shape=(depth, height, width), what=WORK[step], also=also)

    @torch.no_grad()
    def _coded(self, images: Tensor, timestep: int | None) -> tuple[Tensor, list[Tensor]]:
        """Latents and stages of volumes; those of a single one are not copied."""
        self._check(images.shape[2:], "features")
        items = [self._features(image, timestep) for image in images.split(1)]
        if len(items) == 1:
            return items[0]
        latents, found = zip(*items, strict=True)
        return torch.cat(latents), [torch.cat(stage) for stage in zip(*found, strict=True)]

    def _features(self, image: Tensor, timestep: int | None) -> tuple[Tensor, list[Tensor]]:
        latents, stages = self._encode(image, keep=FEATURE_BLOCKS)
        if timestep is not None:
            with captured(list(self.unet.up_blocks)) as levels:
                self.denoise(latents, timestep, torch.zeros(1, 1, TOKEN_WIDTH))
            stages += [_outward(level) for level in levels]
        return latents, sorted(stages, key=lambda stage: -stage.shape[-1])

    def _encode(self, image: Tensor, keep: tuple[int, ...] = ()) -> tuple[Tensor, list[Tensor]]:
        check_multiple(image, self.downscale, what="images")
        blocks, rows = self.autoencoder.encoder.blocks, self.options.rows
        last, stages = run_blocks(blocks, self._inward((image + 1) / 2), rows=rows, keep=keep)
        mean = self.autoencoder.quant_conv_mu(last)
        pooled = [self._pooled(stage, 2**level) for level, stage in enumerate(stages)]
        return _outward(mean) * self.scale_factor, pooled

    def _pooled(self, stage: Tensor, downscale: int) -> Tensor:
        """A stage with one value per ``downscale`` voxels, averaged as far as the options ask, outside."""
        while downscale < self.options.feature_downscale:
            stage, downscale = SlicedAveragePool()(stage), 2 * downscale
        return _outward(stage)

    def _decode(self, latents: Tensor) -> Tensor:
        blocks, rows = self.autoencoder.decoder.blocks, self.options.rows
        z = self.autoencoder.post_quant_conv(self._inward(latents / self.scale_factor))
        return 2 * _outward(run_blocks(blocks, z, rows=rows)[0]) - 1

    def _conditions(self, tokens: Tensor) -> dict[str, Any]:
        """The denoiser's own inputs, from tokens ``(B, 6)``."""
        modality, spacing, regions = tokens.split([1, 3, 2], 1)
        usual = torch.tensor(self.options.spacing_mm).to(spacing).expand_as(spacing)
        spacing = torch.where(spacing > 0, spacing, usual).flip(1)  # (S, H, W) to MAISI's (x, y, z)
        inputs: dict[str, Any] = {"spacing_tensor": self._hundredfold(spacing)}
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


def pad_volumes(
    images: Tensor, *, value: float = -1.0, multiple: int = MULTIPLE
) -> tuple[Tensor, tuple[Any, ...]]:
    """Volumes made to fit by values after their last slices, rows and columns.

    Args:
        images: ``(B, 1, D, H, W)``.
        value: Air; take 0 for masks.
        multiple: Of the edges of the result.

    Returns:
        The padded volumes and the slices that cut the given ones out again, or anything on their grid.
    """
    shape = images.shape[2:]
    missing = [-n % multiple for n in shape]
    pads = [pad for end in reversed(missing) for pad in (0, end)]
    return nn.functional.pad(images, pads, value=value), (..., *(slice(0, n) for n in shape))


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


def _outward(x: Tensor) -> Tensor:
    """The way back from :meth:`MaisiBackbone._inward`, as float32."""
    return x.flip(2, 3).float().permute(0, 1, 4, 3, 2)
