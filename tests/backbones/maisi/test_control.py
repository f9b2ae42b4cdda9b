"""Guidance of MAISI: by a label map through its ControlNet, and classifier-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("monai")

from helpers.maisi_toys import TINY_AUTOENCODER, TINY_UNET, lively, save_published, tiny, volumes
from latentseg.backbones.maisi.conditions import MaisiCondition
from latentseg.backbones.maisi.control import CONTROLNET, FILES, label_bits
from latentseg.backbones.maisi.library import ControlNetMaisi
from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions
from latentseg.backbones.maisi.networks import UNET_SHAPE, VARIANTS
from latentseg.backbones.sampling import predict
from latentseg.errors import ModelError, UsageError
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint

VARIANT = "maisi-ct-rflow"
SHAPE = (32, 32, 32)
FEW = {"conditioning_embedding_num_channels": [2, 3, 4]}


def save_control(folder: Path, *, variant: str = VARIANT, silent: bool = False) -> Path:
    """The published files, and a ControlNet's checkpoint without what it shares with the denoiser."""
    save_published(folder, variant)
    changes = {"autoencoder_def": TINY_AUTOENCODER, "diffusion_unet_def": TINY_UNET, "controlnet_def": FEW}
    (folder / "config.json").write_text(json.dumps(changes))
    unet = VARIANTS[variant].unet | TINY_UNET
    shared = {key: unet[key] for key in UNET_SHAPE if key in unet}
    own = {"num_class_embeds": unet.get("num_class_embeds")}
    network = lively(lambda config: ControlNetMaisi(**config), shared | CONTROLNET | own | FEW)
    state = {k: t for k, t in network.state_dict().items() if not k.startswith(("conv_in", "time_embed"))}
    if silent:
        last = ("controlnet_down_blocks", "controlnet_mid_block")
        state = {k: torch.zeros_like(t) if k.startswith(last) else t for k, t in state.items()}
    torch.save({"controlnet_state_dict": state}, folder / FILES[variant])
    return folder


def load(folder: Path) -> MaisiBackbone:
    return MaisiBackbone.from_folder(folder, options=MaisiOptions(memory_gib=1.0))


def label_map() -> torch.Tensor:
    labels = torch.full((1, 1, *SHAPE), 200.0)
    labels[..., 8:20, 8:20, 8:20] = 1
    return labels


@pytest.mark.parametrize("variant", ["maisi-ct-rflow", "maisi-ct-ddpm"])
def test_a_label_map_guides_the_denoiser(tmp_path: Path, variant: str) -> None:
    backbone = load(save_control(tmp_path, variant=variant))
    token, latents = MaisiCondition().token(), volumes(*SHAPE)[..., ::4, ::4, ::4].expand(2, 4, -1, -1, -1)
    plain = backbone.denoise(latents, 500, token)
    guided = backbone.guided_by(label_map())
    told = guided.denoise(latents, 500, token)
    assert not torch.allclose(plain, told, atol=1e-4)
    other = guided.guided_by(torch.full((1, 1, *SHAPE), 200.0)).denoise(latents, 500, token)
    assert not torch.allclose(told, other, atol=1e-5)
    torch.testing.assert_close(backbone.denoise(latents, 500, token), plain)  # nothing is kept on the model
    hole = torch.zeros(1, 1, 8, 8, 8)
    hole[..., 2:5, 2:5, 2:5] = 1
    options = InpaintingOptions(steps=2)
    filled = [
        inpaint(one, latents[:1], hole, token, keys=["a"], options=options) for one in (backbone, guided)
    ]
    assert not torch.allclose(filled[0], filled[1], atol=1e-4)
    torch.testing.assert_close(filled[1][:, :, 6:], latents[:1, :, 6:])


def test_a_controlnet_that_says_nothing_changes_nothing(tmp_path: Path) -> None:
    backbone = load(save_control(tmp_path, silent=True))
    token, latents = MaisiCondition().token(), torch.randn(1, 4, 8, 8, 8)
    told = backbone.guided_by(label_map()).denoise(latents, 300, token)
    torch.testing.assert_close(told, backbone.denoise(latents, 300, token))


def test_what_cannot_guide(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="without its ControlNet"):
        tiny().guided_by(label_map())
    assert load(save_control(tmp_path / "one")).memory(SHAPE).denoise > tiny().memory(SHAPE).denoise
    bits = label_bits(torch.tensor([0.0, 5.0, 200.0]).reshape(1, 1, 3))
    assert bits[0, :, 1].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]
    assert float((bits[0, :, 2] * 2 ** torch.arange(8)).sum()) == 200
    for wrong in (-1.0, 0.5, 256.0):
        with pytest.raises(UsageError, match="label ids"):
            label_bits(torch.full((1, 1, 2), wrong))
    (tmp_path / "one" / FILES[VARIANT]).write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "one")


@pytest.mark.parametrize("variant", ["maisi-ct-rflow", "maisi-ct-ddpm"])
def test_classifier_free_guidance(variant: str) -> None:
    backbone = tiny(variant)
    latents, token = torch.randn(2, 4, 8, 8, 8), MaisiCondition("ct", (3.0, 1.0, 1.0)).token()
    timestep = backbone.schedule.timestep(0.5)
    said = backbone.denoise(latents, timestep, token)
    silent = backbone.denoise(latents, timestep, torch.zeros_like(token))
    assert not torch.allclose(said, silent, atol=1e-5)
    for weight in (0.0, 1.0, 2.5):
        found = predict(backbone, latents, 0.5, token, weight)
        torch.testing.assert_close(found, silent + weight * (said - silent), atol=1e-4, rtol=1e-4)


def test_guidance_reaches_the_inpainting() -> None:
    backbone, token = tiny(), MaisiCondition("ct", (3.0, 1.0, 1.0)).token()
    latents, hole = torch.randn(1, 4, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    calls: list[Any] = []

    def filled(weight: float) -> torch.Tensor:
        return inpaint(
            backbone, latents, hole, token, keys=["a"], options=InpaintingOptions(steps=1, guidance=weight)
        )

    handle = backbone.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    alone, guided, silent = filled(1.0), filled(3.0), filled(0.0)
    handle.remove()
    assert calls == [1, 2, 1]
    torch.testing.assert_close(guided, silent + 3.0 * (alone - silent), atol=1e-3, rtol=1e-3)
