"""The condition: translator, regions on the feature grid, feature sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.sd_folders import tiny_dino
from latentseg.errors import ModelError
from latentseg.methods.sdfsmis.condition import (
    BackboneFeatures,
    ConditionTranslator,
    DinoFeatures,
    masked_features,
    preprocess_for_dino,
    region_weight,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class FakeBackbone:
    name, dims, image_size, latent_channels, downscale, condition_dim = "fake", 2, 64, 4, 8, 8

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        n = len(images)
        return [images.expand(n, 3, 64, 64), torch.ones(n, 5, 4, 4)]


def test_translator_has_the_keys_and_size_of_the_release() -> None:
    translator = ConditionTranslator(768, 768)
    assert {k.split(".")[1] for k in translator.state_dict()} == {"0", "1", "3", "4", "6", "7", "9"}
    assert sum(p.numel() for p in translator.parameters()) == 7_092_480
    assert translator(draw(2, 3, 768)).shape == (2, 3, 768)


def test_official_preprocessing_truncates_and_crops() -> None:
    images = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = preprocess_for_dino(images, compat="official")
    assert x.shape == (1, 3, 224, 224)
    red = ((images[0, 0, 16:240, 16:240] + 1) / 2 * 255).floor() / 255
    torch.testing.assert_close(x[0, 0], (red - 0.485) / 0.229)


def test_fixed_preprocessing_keeps_the_border() -> None:
    images = -torch.ones(1, 1, 256, 256)
    images[..., :8, :] = 1
    assert preprocess_for_dino(images, compat="official").std((2, 3)).max() == 0
    assert preprocess_for_dino(images, compat="fixed")[0, 0, 0].mean() > 2


def test_fixed_region_is_never_empty_and_official_can_be() -> None:
    masks = torch.zeros(2, 256, 256)
    masks[0, 64:128, 64:128] = 1
    masks[1, 100:103, 100:103] = 1
    official, fixed = (region_weight(masks, 16, compat=c) for c in ("official", "fixed"))
    assert official[1].sum() == 0
    assert fixed[1].sum() > 0
    assert torch.equal(official[0], fixed[0])
    assert official[0].sum() == 16


@torch.no_grad()
def test_means_over_the_foreground_and_the_shots() -> None:
    features, masks = draw(4, 3, 8, 8), torch.zeros(4, 64, 64)
    masks[:, :32] = 1
    out = masked_features(features, masks, shots=2)
    assert out.shape == (2, 1, 3)
    torch.testing.assert_close(out[1, 0], features[2:, :, :4].mean((0, 2, 3)))


def test_dino_features_are_a_grid_in_reading_order(tmp_path: Path) -> None:
    tiny_dino().save_pretrained(tmp_path)
    source = DinoFeatures.from_folder(tmp_path)
    images = torch.rand(2, 1, 256, 256) * 2 - 1
    grid = source(images, compat="official")
    assert grid.shape == (2, source.dim, 16, 16)
    with torch.no_grad():
        tokens = source.model(preprocess_for_dino(images, compat="official")).last_hidden_state
    torch.testing.assert_close(grid[1, :, 2, 5], tokens[1, 1 + 2 * 16 + 5])


def test_missing_dino_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="DINOv2"):
        DinoFeatures.from_folder(tmp_path)
    tiny_dino().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError) as caught:
        DinoFeatures.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_backbone_features_come_on_one_grid() -> None:
    source = BackboneFeatures(FakeBackbone(), grid=16)  # type: ignore[arg-type]
    assert source.dim == 8
    assert source(torch.zeros(2, 1, 64, 64)).shape == (2, 8, 16, 16)
    assert BackboneFeatures(FakeBackbone(), stages=[1], grid=16).dim == 5  # type: ignore[arg-type]
