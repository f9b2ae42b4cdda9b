"""Tiny random models in the layouts of Stable Diffusion and of DINOv2."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import Dinov2Config, Dinov2Model


def save_stable_diffusion(folder: Path, *, width: int = 8, channels: int = 4) -> Path:
    """``vae/`` and ``unet/``: RGB, latents of an eighth of the size, one attention on each way."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[4, 4, 4, 4],
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            sample_size=256,
            mid_block_add_attention=False,
        )
        unet = UNet2DConditionModel(
            sample_size=32,
            in_channels=channels,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(width, width),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=12,
            attention_head_dim=2,
        )
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    return folder


def save_dinov2(folder: Path) -> Path:
    """A DINOv2 of one layer."""
    with torch.random.fork_rng():
        model = tiny_dino()
    model.save_pretrained(folder)
    return folder


def tiny_dino() -> Dinov2Model:
    torch.manual_seed(0)
    return Dinov2Model(
        Dinov2Config(
            hidden_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            mlp_ratio=2,
            image_size=224,
            patch_size=14,
        )
    )


def tiny_unet(in_channels: int = 4, *, seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    ).eval()
