"""What the paper's training rests on and never changes: autoencoder, denoiser to start from, features."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from latentseg.backbones import registry
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.layouts import layout_of
from latentseg.backbones.stable_diffusion import load_part
from latentseg.errors import ModelError
from latentseg.methods.sdfsmis.condition import BackboneFeatures, DinoFeatures, FeatureSource


@dataclass(eq=False)
class FrozenParts:
    """The frozen side of the training.

    Attributes:
        name: Of the backbone.
        vae: Its autoencoder.
        denoiser: Where the network starts from; it stays as it is.
        features: What the condition is made of.
        mask_head: State of the backbone's light decoder of mask latents; empty where it has none.
    """

    name: str
    vae: AutoencoderKL
    denoiser: UNet2DConditionModel
    features: FeatureSource
    mask_head: dict[str, Tensor] = field(default_factory=dict)

    @property
    def latent_channels(self) -> int:
        """``C``."""
        return int(self.vae.config["latent_channels"])

    @property
    def downscale(self) -> int:
        """Pixels of an image for one of its latent, along each edge."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Grey images ``(B, 1, H, W)`` of scaled latents, the mean of the decoded channels."""
        shift = float(self.vae.config.get("shift_factor") or 0.0)
        z = latents / float(self.vae.config["scaling_factor"]) + shift
        decoded: Tensor = self.vae.decode(z.to(self.vae.dtype)).sample
        return decoded.float().mean(1, keepdim=True)

    @torch.no_grad()
    def sample(self, images: Tensor) -> Tensor:
        """Scaled samples ``(B, C, h, w)`` of the posterior of images ``(B, 1, H, W)`` in [-1, 1].

        Grey images, masks among them, are shown as the autoencoder's channels: RGB for Stable Diffusion.
        """
        x = images.expand(-1, int(self.vae.config["in_channels"]), -1, -1).to(self.vae.dtype)
        shift = float(self.vae.config.get("shift_factor") or 0.0)
        latents: Tensor = self.vae.encode(x).latent_dist.sample().float() - shift
        return latents * float(self.vae.config["scaling_factor"])

    def to(self, device: torch.device) -> None:
        """Move what runs in every step; the denoiser stays where it is."""
        nn.Module.to(self.vae, device)
        if isinstance(self.features, DinoFeatures):
            self.features.to(device)
        if isinstance(self.features, BackboneFeatures) and isinstance(
            self.features.backbone, CompactBackbone
        ):
            self.features.backbone.to(device)


def load_frozen(folder: Path, *, dinov2: Path | None = None) -> FrozenParts:
    """The frozen parts of a backbone's folder.

    Args:
        folder: Stable Diffusion's layout, or that of ``compact``.
        dinov2: Folder of DINOv2 for Stable Diffusion; the registered ``dinov2-base`` when left out.

    Raises:
        ModelError: The folder is of another kind, a part is missing or damaged, the denoiser is not one of
            image latents, or there is no DINOv2.
    """
    layout = layout_of(folder, "fewshot")
    parts = _compact(folder) if layout.name == "compact" else _stable_diffusion(folder, dinov2)
    parts.vae.requires_grad_(requires_grad=False).eval()
    seen = int(parts.denoiser.config["in_channels"])
    if seen != parts.latent_channels:
        what = f"a denoiser of {seen} input channels, the autoencoder has {parts.latent_channels}"
        fix = "take the text-to-image model, not one for inpainting or for segmentation"
        raise ModelError(what, where=str(folder), fix=fix)
    return parts


def _stable_diffusion(folder: Path, dinov2: Path | None) -> FrozenParts:
    features = DinoFeatures.from_folder(dinov2 or registry.resolve("dinov2-base"))
    vae, unet = (
        load_part(AutoencoderKL, folder / "vae"),
        load_part(UNet2DConditionModel, folder / "unet"),
    )
    return FrozenParts(folder.name, vae.float(), unet.float(), features)


def _compact(folder: Path) -> FrozenParts:
    backbone = CompactBackbone.from_folder(folder)
    unet = backbone.unet
    if backbone.fills_holes:
        _without_hole(unet, backbone.latent_channels)
    features = BackboneFeatures(backbone, stages=[-1])
    return FrozenParts("compact", backbone.vae, unet, features, backbone.mask_head.state_dict())


def _without_hole(unet: UNet2DConditionModel, channels: int) -> None:
    """Take the channels that show a hole and its surroundings off a denoiser's entrance."""
    wide = unet.conv_in
    narrow = nn.Conv2d(channels, wide.out_channels, wide.kernel_size, padding=wide.padding)
    with torch.no_grad():
        narrow.weight.copy_(wide.weight[:, :channels])
        if wide.bias is not None and narrow.bias is not None:
            narrow.bias.copy_(wide.bias)
    unet.conv_in = narrow
    unet.register_to_config(in_channels=channels)
