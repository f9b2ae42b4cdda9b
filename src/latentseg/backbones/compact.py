"""The embedded backbone: the classes of Stable Diffusion, with a small configuration and one channel.

Everything that runs on Stable Diffusion runs on it unchanged, which makes it a test bed as well as a default.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from latentseg.backbones.diffusers_2d import captured
from latentseg.backbones.weights import read_weights, reason, write_weights
from latentseg.errors import ModelError
from latentseg.imaging.files import written_whole

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
    # attention on 16 x 16 and 8 x 8: on 32 x 32 it would double the time of a step
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 128, 192],
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
}


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


class CompactAutoencoder(nn.Module):
    """``AutoencoderKL`` with its mask head and the running scale of its latents.

    Attributes:
        scaling: Factor that brings latents to unit standard deviation.
        latent_variance: Running second moment of the latents, a scalar.
    """

    latent_variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**AUTOENCODER_CONFIG)
        self.mask_head = MaskHead()
        self.register_buffer("latent_variance", torch.ones(()))

    @property
    def scaling(self) -> Tensor:
        """One over the standard deviation of the latents seen in training."""
        return self.latent_variance.rsqrt()

    def track(self, latents: Tensor) -> None:
        """Follow the second moment of latents ``(B, C, h, w)``."""
        self.latent_variance.lerp_(latents.square().mean(), 0.01)


class CompactBackbone:
    """The compact autoencoder as a :class:`~latentseg.backbones.base.Backbone`; one grey channel in, one out.

    Attributes:
        mask_head: The light decoder of mask latents.
        feature_dim: Channels of the encoder's last stage, which the condition is made of.
    """

    name, dims, image_size, latent_channels, downscale = "compact", 2, 256, 4, 8
    condition_dim = int(UNET_CONFIG["cross_attention_dim"])
    feature_dim = int(AUTOENCODER_CONFIG["block_out_channels"][-1])

    def __init__(self, vae: AutoencoderKL, mask_head: MaskHead, *, slab: int = 8) -> None:
        self.vae, self.mask_head, self.slab = vae, mask_head, slab
        self.scaling = float(vae.config["scaling_factor"])

    @classmethod
    def from_folder(cls, folder: Path) -> CompactBackbone:
        """Load ``autoencoder.safetensors`` and ``autoencoder.json``."""
        return cls(*load_autoencoder(folder))

    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior mean ``(B, 4, H/8, W/8)`` of ``(B, 1, H, W)`` in [-1, 1]."""
        return self.encode_with_features(images)[0]

    @torch.no_grad()
    def encode_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, and the encoder's last stage ``(B, 128, H/8, W/8)``, from one pass."""
        latents, stages = [], []
        for slab in images.split(self.slab):
            with captured([self.vae.encoder.mid_block]) as outputs:
                latents.append(self.vae.encode(slab).latent_dist.mean * self.scaling)
            stages.append(outputs[0])
        return torch.cat(latents), torch.cat(stages)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Grey images ``(B, 1, H, W)`` of scaled latents, not clipped."""
        slabs = latents.split(self.slab)
        return torch.cat([self.vae.decode(slab / self.scaling).sample for slab in slabs])

    def decode_rgb(self, latents: Tensor) -> Tensor:
        """The one channel there is, ``(B, 1, H, W)``."""
        return self.decode(latents)

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Stages of the encoder, finest grid first: 32, 64, 128 and twice 128 channels."""
        slabs = []
        for slab in images.split(self.slab):
            with captured([*self.vae.encoder.down_blocks, self.vae.encoder.mid_block]) as outputs:
                self.vae.encode(slab)
            slabs.append(outputs)
        return [torch.cat(stage) for stage in zip(*slabs, strict=True)]

    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """Not in this version of the weights.

        Raises:
            ModelError: Always.
        """
        del latents, timestep, condition
        raise ModelError(
            "the compact backbone carries an autoencoder and no denoiser yet",
            fix="use stable-diffusion-1.5 for denoising",
        )


def save_autoencoder(model: CompactAutoencoder, folder: Path) -> None:
    """Write ``autoencoder.safetensors`` (fp16, with the mask head) and ``autoencoder.json``."""
    tensors = {f"vae.{name}": t for name, t in model.vae.state_dict().items()}
    tensors |= {f"mask_head.{name}": t for name, t in model.mask_head.state_dict().items()}
    config = {**AUTOENCODER_CONFIG, "scaling_factor": round(float(model.scaling), 6)}
    write_weights(folder / "autoencoder.safetensors", tensors)
    with written_whole(folder / "autoencoder.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def load_autoencoder(folder: Path) -> tuple[AutoencoderKL, MaskHead]:
    """Read what :func:`save_autoencoder` wrote, in float32 and frozen.

    Raises:
        ModelError: When a file is missing, damaged or of another configuration.
    """
    tensors = read_weights(folder / "autoencoder.safetensors")
    try:
        vae = AutoencoderKL(**json.loads((folder / "autoencoder.json").read_text()))
        head = MaskHead()
        for prefix, module in (("vae.", vae), ("mask_head.", head)):
            module.load_state_dict(
                {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"the autoencoder does not fit its configuration ({reason(error)})",
            where=str(folder),
            fix="train or pull the model again, or reinstall latentseg",
        ) from error
    return vae.eval().requires_grad_(False), head.eval().requires_grad_(False)
