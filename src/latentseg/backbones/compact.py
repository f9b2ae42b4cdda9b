"""The embedded backbone: the classes of Stable Diffusion, with a small configuration and one channel.

Everything that runs on Stable Diffusion runs on it unchanged, which makes it a test bed as well as a default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor, nn

from latentseg.backbones.base import hole_context
from latentseg.backbones.device import slices_at_a_time
from latentseg.backbones.schedules import RectifiedFlow, Schedule
from latentseg.backbones.stable_diffusion import captured
from latentseg.backbones.weights import read_weights, reason, write_weights
from latentseg.errors import ModelError
from latentseg.imaging.files import write_json

BYTES_OF_A_SLICE = 64 << 20  # at the largest moment of the autoencoder
AUTOENCODER_CONFIG: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 128],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 256,
    "mid_block_add_attention": False,  # convolutions alone: crops and whole slices are coded alike
}

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [64, 128, 192],
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 128,
    "attention_head_dim": [2, 4, 4],  # numbers of heads, whatever diffusers calls them
}

TEXT_DIM = 384  # of the sentence embeddings that the denoiser listens to
TOKENS = 4  # phrases of a condition; shorter ones are padded with zero tokens, which say nothing
TEXT_CONFIG: dict[str, Any] = {"encoder_hid_dim": TEXT_DIM, "encoder_hid_dim_type": "text_proj"}


class MaskHead(nn.Sequential):
    """Reads mask latents ``(B, 4, h, w)`` as logits ``(B, 1, 8h, 8w)``; a thirtieth of the decoder's work."""

    def __init__(self, latent_channels: int = 4, width: int = 96, downscale: int = 8) -> None:
        super().__init__(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, downscale**2, 1),
            nn.PixelShuffle(downscale),
        )


def new_vae(config: Mapping[str, Any]) -> AutoencoderKL:
    """An autoencoder with random weights.

    Args:
        config: That of ``AutoencoderKL``; under ``decoder`` what the decoder has otherwise, such as
            ``block_out_channels`` or ``layers_per_block``.
    """
    shared = {key: value for key, value in config.items() if key != "decoder"}
    vae = AutoencoderKL(**shared)
    if config.get("decoder"):
        both = {**shared, **config["decoder"]}
        names = ("out_channels", "up_block_types", "block_out_channels", "layers_per_block")
        vae.decoder = Decoder(
            in_channels=both["latent_channels"],
            norm_num_groups=both["norm_num_groups"],
            mid_block_add_attention=both["mid_block_add_attention"],
            **{name: both[name] for name in names},
        )
    return vae


class CompactAutoencoder(nn.Module):
    """``AutoencoderKL`` with its mask head and the running scale of its latents.

    Args:
        changes: What is different from ``AUTOENCODER_CONFIG``, see :func:`new_vae`.

    Attributes:
        config: Of :func:`new_vae`.
        scaling: Factor that brings latents to unit standard deviation.
        latent_variance: Running second moment of the latents, a scalar.
    """

    latent_variance: Tensor

    def __init__(self, changes: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = {**AUTOENCODER_CONFIG, **(changes or {})}
        self.vae = new_vae(self.config)
        self.mask_head = MaskHead(self.config["latent_channels"])
        self.register_buffer("latent_variance", torch.ones(()))

    @property
    def scaling(self) -> Tensor:
        """One over the standard deviation of the latents seen in training."""
        return self.latent_variance.rsqrt()

    def track(self, latents: Tensor) -> None:
        """Follow the second moment of latents ``(B, C, h, w)``."""
        self.latent_variance.lerp_(latents.float().square().mean(), 0.01)


class CompactBackbone:
    """The compact models as a :class:`~latentseg.backbones.base.Backbone`; one grey channel in, one out.

    The denoiser is a rectified flow: at timestep ``1000 t`` it sees ``(1 - t) z + t noise`` and predicts the
    velocity ``noise - z``. Its condition tokens are sentence embeddings of :mod:`latentseg.text`; a zero
    token says nothing.

    Args:
        vae: The autoencoder.
        mask_head: The light decoder of mask latents.
        folder: Where the denoiser is read from when it is first needed.
        slab: Slices that are coded at a time.

    """

    name, dims, image_size, downscale = "compact", 2, 256, 8
    condition_dim = TEXT_DIM
    schedule: Schedule = RectifiedFlow()

    def __init__(
        self, vae: AutoencoderKL, mask_head: MaskHead, *, folder: Path | None = None, slab: int = 8
    ) -> None:
        self.vae = vae.to(memory_format=torch.channels_last)  # faster on CPUs
        self.mask_head, self.folder, self.slab = mask_head, folder, slab
        self.scaling = float(vae.config["scaling_factor"])
        self.latent_channels = int(vae.config["latent_channels"])
        self._device = torch.device("cpu")

    @classmethod
    def from_folder(cls, folder: Path) -> CompactBackbone:
        """Load the autoencoder now and the denoiser, if the folder has one, when it is asked for."""
        return cls(*load_autoencoder(folder), folder=folder)

    def to(self, device: torch.device) -> CompactBackbone:
        """Move all networks; inputs follow them."""
        self._device = device
        if device.type == "cuda":
            self.slab = slices_at_a_time(device, bytes_each=BYTES_OF_A_SLICE)
        for module in (self.vae, self.mask_head, *([self.unet] if "unet" in vars(self) else [])):
            nn.Module.to(module, device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are; inputs follow them."""
        return self._device

    @property
    def has_denoiser(self) -> bool:
        """Whether there are weights of a denoiser beside those of the autoencoder."""
        return self.folder is not None and (self.folder / "denoiser.safetensors").exists()

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        """The denoiser, frozen.

        Raises:
            ModelError: There is none in the folder, or it is damaged.
        """
        if self.folder is None or not self.has_denoiser:
            raise ModelError(
                "no denoiser beside the autoencoder",
                where=str(self.folder or "compact"),
                fix="put denoiser.json and denoiser.safetensors there (`latentseg train denoiser`)",
            )
        return load_denoiser(self.folder).to(self.device)

    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior mean ``(B, C, H/8, W/8)`` of ``(B, 1, H, W)`` in [-1, 1]."""
        return torch.cat([self._posterior_mean(slab) for slab in images.split(self.slab)])

    @torch.no_grad()
    def encode_with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents, and the encoder's stages of 16, 32, 64, 128 and 128 channels, from one pass."""
        latents, slabs = [], []
        for slab in images.split(self.slab):
            with captured([*self.vae.encoder.down_blocks, self.vae.encoder.mid_block]) as outputs:
                latents.append(self._posterior_mean(slab))
            slabs.append(sorted(outputs, key=lambda stage: -stage.shape[-1]))
        return torch.cat(latents), [torch.cat(stage) for stage in zip(*slabs, strict=True)]

    @torch.no_grad()
    def _posterior_mean(self, images: Tensor) -> Tensor:
        mean: Tensor = self.vae.encode(images.to(self.device)).latent_dist.mean * self.scaling
        return mean

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Grey images ``(B, 1, H, W)`` of scaled latents, not clipped."""
        slabs = latents.to(self.device).split(self.slab)
        return torch.cat([self.vae.decode(slab / self.scaling).sample for slab in slabs])

    def decode_rgb(self, latents: Tensor) -> Tensor:
        """The one channel there is, ``(B, 1, H, W)``."""
        return self.decode(latents)

    @torch.no_grad()
    def features(self, images: Tensor, *, timestep: int | None = None) -> list[Tensor]:
        """Stages of the encoder: 16, 32, 64 and twice 128 channels, and of the denoiser: 192, 128, 64.

        Finest grid first; of one size the encoder's come before the denoiser's, and those in their order.

        Raises:
            ModelError: A timestep is given, and there is no denoiser.
        """
        slabs = []
        for slab in images.split(self.slab):
            with captured([*self.vae.encoder.down_blocks, self.vae.encoder.mid_block]) as outputs:
                latents = self._posterior_mean(slab)
            if timestep is not None:
                with captured(list(self.unet.up_blocks)) as decoded:
                    self.denoise(latents, timestep, torch.zeros(1, TOKENS, TEXT_DIM))
                outputs += decoded
            slabs.append(sorted(outputs, key=lambda stage: -stage.shape[-1]))
        return [torch.cat(stage) for stage in zip(*slabs, strict=True)]

    @property
    def fills_holes(self) -> bool:
        """Whether the denoiser was shown holes; not, where there is none."""
        return self.has_denoiser and int(self.unet.config["in_channels"]) > self.latent_channels

    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """Velocity ``(B, C, h, w)`` at ``t = timestep / 1000``, given tokens ``(B | 1, T, 384)``.

        Raises:
            ModelError: There is no denoiser, or it is damaged.
        """
        context = hole_context(torch.zeros_like(latents), torch.ones_like(latents[:, :1]))
        return self.denoise_hole(latents, timestep, condition, context)

    @torch.no_grad()
    def denoise_hole(self, latents: Tensor, timestep: int, condition: Tensor, context: Tensor) -> Tensor:
        """Velocity ``(B, C, h, w)`` where holes are known; a denoiser that saw none ignores ``context``.

        Raises:
            ModelError: There is no denoiser, or it is damaged.
        """
        tokens = condition.to(self.device).expand(len(latents), -1, -1)
        parts = [latents, context] if self.fills_holes else [latents]
        noisy = torch.cat([part.to(self.device) for part in parts], 1)
        out: Tensor = self.unet(noisy, timestep, tokens, return_dict=False)[0]
        return out


def save_autoencoder(model: CompactAutoencoder, folder: Path) -> None:
    """Write ``autoencoder.safetensors`` (fp16, with the mask head) and ``autoencoder.json``."""
    tensors = {f"vae.{name}": t for name, t in model.vae.state_dict().items()}
    tensors |= {f"mask_head.{name}": t for name, t in model.mask_head.state_dict().items()}
    config = {**model.config, "scaling_factor": round(float(model.scaling), 6)}
    write_weights(folder / "autoencoder.safetensors", tensors)
    write_json(folder / "autoencoder.json", config)


def load_autoencoder(folder: Path) -> tuple[AutoencoderKL, MaskHead]:
    """Read what :func:`save_autoencoder` wrote, in float32 and frozen.

    Raises:
        ModelError: When a file is missing, damaged or of another configuration.
    """
    tensors = read_weights(folder / "autoencoder.safetensors")
    try:
        vae = new_vae(json.loads((folder / "autoencoder.json").read_text(encoding="utf-8")))
        head = MaskHead(int(vae.config["latent_channels"]))
        for prefix, module in (("vae.", vae), ("mask_head.", head)):
            module.load_state_dict(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise _unfit("autoencoder", folder, error) from error
    return vae.eval().requires_grad_(False), head.eval().requires_grad_(False)


def condition_tokens(embeddings: Tensor) -> Tensor:
    """Condition ``(1, 4, 384)`` of up to four phrases ``(n, 384)``; of none, the unconditional one.

    Raises:
        ValueError: There are more phrases than the denoiser was trained with.
    """
    if len(embeddings) > TOKENS:
        raise ValueError(f"{len(embeddings)} phrases, at most {TOKENS} fit")
    return F.pad(embeddings.reshape(-1, TEXT_DIM), (0, 0, 0, TOKENS - len(embeddings)))[None]


def phrase_condition(phrases: Sequence[str]) -> Tensor:
    """Condition ``(1, 4, 384)`` of up to four phrases, such as "CT", "abdomen" and "healthy".

    Raises:
        UsageError: A phrase that is not in the vocabulary, and no text encoder is installed.
    """
    from latentseg.text import embed

    return condition_tokens(torch.from_numpy(embed(phrases)))


def new_denoiser(*, latent_channels: int = 4, holes: bool = False) -> UNet2DConditionModel:
    """A denoiser with random weights.

    Args:
        latent_channels: Of the autoencoder.
        holes: Whether it is told of holes (:func:`~latentseg.backbones.base.hole_context`).
    """
    channels = {"in_channels": latent_channels * (1 + holes) + holes, "out_channels": latent_channels}
    return UNet2DConditionModel(**{**UNET_CONFIG, **channels}, **TEXT_CONFIG)


def save_denoiser(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write ``denoiser.safetensors`` (fp16) and ``denoiser.json``."""
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    write_weights(folder / "denoiser.safetensors", unet.state_dict())
    write_json(folder / "denoiser.json", config)


def load_denoiser(folder: Path) -> UNet2DConditionModel:
    """Read what :func:`save_denoiser` wrote, in float32 and frozen.

    Raises:
        ModelError: When a file is missing, damaged or of another configuration.
    """
    tensors = read_weights(folder / "denoiser.safetensors")
    try:
        config = json.loads((folder / "denoiser.json").read_text(encoding="utf-8"))
        with torch.device("meta"):  # the random initialization would be thrown away
            unet = UNet2DConditionModel(**config)
        unet.load_state_dict(tensors, assign=True)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise _unfit("denoiser", folder, error) from error
    return unet.eval().requires_grad_(False)


def _unfit(part: str, folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"the {part} does not fit its configuration ({reason(error)})",
        where=str(folder),
        fix="train or pull the model again, or reinstall latentseg",
    )
