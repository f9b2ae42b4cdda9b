"""The protocol is what the 2-D backbone implements."""

from __future__ import annotations

from helpers.sd_folders import tiny_unet
from latentseg.backbones.base import Backbone
from latentseg.backbones.stable_diffusion import Diffusers2D

from .test_stable_diffusion import tiny_vae


def test_diffusers_2d_is_a_backbone() -> None:
    assert isinstance(Diffusers2D(tiny_vae(), tiny_unet()), Backbone)
