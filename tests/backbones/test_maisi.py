"""MAISI with tiny random weights in the published key layout: the protocol, conditions, schedules, axes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("monai.apps.generation.maisi")

from latentseg.backbones.base import Backbone
from latentseg.backbones.inpainting import InpaintingOptions, inpaint, pool_mask
from latentseg.backbones.maisi import MaisiBackbone, MaisiCondition, MaisiOptions
from latentseg.backbones.maisi_networks import AUTOENCODER, VARIANTS, new_autoencoder, new_unet

TINY_AUTOENCODER = AUTOENCODER | {"num_channels": [4, 8, 12], "norm_num_groups": 2}
TINY_UNET = {"num_channels": [4, 8, 12, 16], "num_head_channels": [0, 0, 4, 4], "norm_num_groups": 2}


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere, also where the library starts with zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def tiny(variant: str = "maisi-ct-rflow", **options: object) -> MaisiBackbone:
    return MaisiBackbone(
        lively(new_autoencoder(TINY_AUTOENCODER)),
        lively(new_unet(VARIANTS[variant].unet | TINY_UNET)),
        scale_factor=0.9,
        variant=variant,
        options=MaisiOptions(**options),  # type: ignore[arg-type]
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 32, 64, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_it_is_a_backbone(variant: str, images: torch.Tensor) -> None:
    backbone = tiny(variant)
    assert isinstance(backbone, Backbone)
    latents = backbone.encode(images)
    assert latents.shape == (2, 4, 8, 16, 8)
    assert backbone.decode(latents).shape == images.shape
    assert backbone.decode_rgb(latents).shape == images.shape
    shapes = [tuple(stage.shape) for stage in backbone.features(images)]
    assert shapes == [(2, 4, 32, 64, 32), (2, 8, 16, 32, 16), (2, 12, 8, 16, 8)]
    prediction = backbone.denoise(latents, 500, MaisiCondition().token())
    assert prediction.shape == latents.shape
    assert prediction.dtype == torch.float32
    assert not any(p.requires_grad for net in (backbone.autoencoder, backbone.unet) for p in net.parameters())


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_inpainting_runs_on_it_unchanged(variant: str, images: torch.Tensor) -> None:
    backbone = tiny(variant).for_volume((32, 64, 32), spacing_mm=(3.0, 0.8, 0.8))
    latents = backbone.encode(images)
    mask = torch.zeros_like(images)
    mask[:, :, 10, 20:30, 12] = 1
    holes = pool_mask(mask, backbone.downscale)
    filled = inpaint(
        backbone,
        latents,
        holes,
        MaisiCondition().token(),
        keys=["a", "b"],
        options=InpaintingOptions(steps=2, resample=2, guidance=1.5),
    )
    inside = holes.bool().expand_as(filled)
    assert torch.equal(filled[~inside], latents[~inside])
    assert bool((filled[inside] != latents[inside]).all())
    assert torch.isfinite(backbone.decode(filled)).all()
