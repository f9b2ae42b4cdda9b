"""Stable Diffusion's layout with tiny random weights: shapes, precision, slabs, hooks, broken folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from helpers.sd_folders import tiny_unet
from latentseg.backbones.device import RunOptions
from latentseg.backbones.stable_diffusion import Diffusers2D
from latentseg.errors import ModelError


def tiny_vae(channels: int = 3) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[4, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=32,
    )


def tiny(**options: object) -> Diffusers2D:
    return Diffusers2D(tiny_vae(), tiny_unet(seed=1), image_size=32, options=RunOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_vae().save_pretrained(tmp_path / "vae")
    tiny_unet(seed=1).save_pretrained(tmp_path / "unet")
    (tmp_path / "scheduler").mkdir()
    return tmp_path


def test_shapes_and_attributes(images: torch.Tensor) -> None:
    backbone = tiny()
    assert (backbone.latent_channels, backbone.downscale, backbone.condition_dim) == (4, 4, 12)
    latents = backbone.encode(images)
    assert latents.shape == (5, 4, 8, 8)
    assert backbone.decode(latents).shape == (5, 1, 32, 32)
    assert backbone.decode_rgb(latents).shape == (5, 3, 32, 32)
    assert backbone.denoise(latents, 1, torch.zeros(1, 1, 12)).shape == latents.shape
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.training


def test_latents_are_the_scaled_mean_and_grey_is_the_mean_of_rgb(images: torch.Tensor) -> None:
    backbone = tiny(channels_last=False)
    with torch.no_grad():
        mean = backbone.vae.encode(images.expand(-1, 3, -1, -1)).latent_dist.mean
    latents = backbone.encode(images)
    torch.testing.assert_close(latents, mean * backbone.vae.config.scaling_factor, rtol=1e-4, atol=1e-5)
    rgb = backbone.decode_rgb(latents)
    torch.testing.assert_close(backbone.decode(latents), rgb.mean(1, keepdim=True))


@pytest.mark.parametrize("slab", [1, 2, 8])
def test_slabs_do_not_change_the_result(images: torch.Tensor, slab: int) -> None:
    latents = tiny(slab=slab).encode(images)
    torch.testing.assert_close(latents, tiny(slab=5).encode(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        tiny(slab=slab).decode(latents), tiny(slab=5).decode(latents), rtol=1e-4, atol=1e-5
    )


def test_bf16_returns_float_close_to_full_precision(images: torch.Tensor) -> None:
    half, full = tiny(dtype=torch.bfloat16), tiny()
    latents = full.encode(images)
    for a, b in ((half.encode(images), latents), (half.decode(latents), full.decode(latents))):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.05 * b.abs().max()
    assert all(f.dtype == torch.float32 for f in half.features(images))


def test_features_are_multi_scale_and_leave_no_hooks(images: torch.Tensor) -> None:
    backbone = tiny(slab=2)
    stages = backbone.features(images, timestep=1)
    assert [f.shape[-1] for f in stages] == sorted((f.shape[-1] for f in stages), reverse=True)
    assert all(f.shape[0] == len(images) for f in stages)
    assert len(stages) == 3 + 1 + 2
    assert len(backbone.features(images)) == 3 + 1
    assert not any(m._forward_hooks for m in backbone.modules())
    torch.testing.assert_close(stages[0][:1], backbone.features(images[:1])[0], rtol=1e-4, atol=1e-5)


def test_one_channel_models_are_served_too(images: torch.Tensor) -> None:
    backbone = Diffusers2D(tiny_vae(channels=1), tiny_unet(seed=1), image_size=32)
    assert backbone.decode(backbone.encode(images)).shape == images.shape


def test_from_folder_reads_the_real_layout(folder: Path, images: torch.Tensor) -> None:
    backbone = Diffusers2D.from_folder(folder, options=RunOptions(slab=5))
    assert backbone.name == folder.name
    torch.testing.assert_close(backbone.encode(images), tiny(slab=5).encode(images))


def test_half_precision_files_are_found(folder: Path, images: torch.Tensor) -> None:
    for part in ("vae", "unet"):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        save_file(
            {k: t.half() for k, t in load_file(file).items()},
            file.with_suffix(".fp16.safetensors"),
            {"format": "pt"},
        )
        file.unlink()
    assert Diffusers2D.from_folder(folder).encode(images).shape == (5, 4, 8, 8)


def spoil_truncate(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoil_no_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def spoil_no_config(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()


def spoil_missing_tensor(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["decoder.conv_out.weight"]
    save_file(tensors, file, {"format": "pt"})


def spoil_other_shape(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"conv_in.weight": torch.zeros(8, 9, 3, 3)}, file, {"format": "pt"})


@pytest.mark.parametrize(
    "spoil", [spoil_truncate, spoil_no_weights, spoil_no_config, spoil_missing_tensor, spoil_other_shape]
)
def test_broken_folders_are_one_sentence(folder: Path, spoil: object) -> None:
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ModelError) as caught:
        Diffusers2D.from_folder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 4
