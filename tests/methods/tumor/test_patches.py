"""Patches that take turns: they cover a region once, and nothing of a patch is left in its own filling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import packs
from latentseg.backbones.compact import (
    CompactAutoencoder,
    CompactBackbone,
    new_denoiser,
    save_autoencoder,
    save_denoiser,
)
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.methods.tumor.patches import complementary_holes, filled_by, filled_smoothly


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), edge=st.integers(1, 30), size=st.integers(4, 60))
def test_every_pixel_of_a_region_is_filled_once(seed: int, edge: int, size: int) -> None:
    region = np.random.default_rng(seed).random((size, size)) < 0.6
    holes = complementary_holes(region, edge=edge)
    assert holes.shape == (4, size, size)
    assert np.array_equal(holes.sum(0), region.astype(int))


def test_patches_of_a_turn_do_not_touch() -> None:
    holes = complementary_holes(np.ones((64, 64), bool), edge=8)
    assert [int(hole.sum()) for hole in holes] == [1024] * 4
    assert np.array_equal(holes[0][:24, :24], np.kron([[1, 0, 1], [0, 0, 0], [1, 0, 1]], np.ones((8, 8))))


@pytest.fixture
def image_and_holes() -> tuple[Tensor, Tensor]:
    rows, columns = np.indices((64, 64))
    image = (rows / 64 + 0.3 * np.sin(columns / 5) - 0.5).astype(np.float32)
    region = np.zeros((64, 64), bool)
    region[8:56, 8:56] = True
    holes = torch.from_numpy(complementary_holes(region, edge=16)).float()[:, None]
    return torch.from_numpy(image)[None, None], holes


def test_a_spot_is_gone_from_its_own_filling(image_and_holes: tuple[Tensor, Tensor]) -> None:
    image, holes = image_and_holes
    spotted = image.clone()
    spotted[..., 20:26, 20:26] = 1.0
    plain, filled = filled_smoothly(image, holes), filled_smoothly(spotted, holes)
    inside = holes.sum(0)[0] > 0
    torch.testing.assert_close(filled[..., 20:26, 20:26], plain[..., 20:26, 20:26], atol=0.2, rtol=0)
    assert torch.equal(filled[0, 0][~inside], spotted[0, 0][~inside])


def test_versions_differ_in_their_noise_alone(
    image_and_holes: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.shrink_networks(monkeypatch)
    torch.manual_seed(0)
    save_autoencoder(CompactAutoencoder(), tmp_path)
    save_denoiser(new_denoiser(holes=True), tmp_path)
    backbone = CompactBackbone.from_folder(tmp_path)
    image, holes = image_and_holes
    options, nothing = InpaintingOptions(steps=2), torch.zeros(1, 4, 384)
    versions = filled_by(backbone, image, holes, nothing, keys=["a", "b", "a"], options=options)
    assert versions.shape == (3, 1, 64, 64)
    assert torch.equal(versions[0], versions[2])
    assert not torch.equal(versions[0], versions[1])
    outside = holes.sum(0)[0] == 0
    decoded = backbone.decode(backbone.encode(image))[0, 0]
    torch.testing.assert_close(versions[1, 0][outside], decoded[outside])
    untouched = filled_by(backbone, image, 0 * holes, nothing, keys=["a"], options=options)
    torch.testing.assert_close(untouched[0, 0], decoded)
