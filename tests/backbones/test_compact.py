"""The compact backbone: the protocol, its files, and what damaged ones say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import packs
from latentseg.backbones.base import Backbone
from latentseg.backbones.compact import (
    AUTOENCODER_CONFIG,
    CompactAutoencoder,
    CompactBackbone,
    load_autoencoder,
    save_autoencoder,
)
from latentseg.backbones.weights import read_weights, reason, write_weights
from latentseg.errors import ModelError


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CompactAutoencoder:
    """A tiny autoencoder with latents of standard deviation 4 (so that scaling shows)."""
    packs.shrink_networks(monkeypatch)
    torch.manual_seed(0)
    out = CompactAutoencoder()
    out.latent_variance.fill_(16.0)
    return out.eval()


@pytest.fixture
def folder(model: CompactAutoencoder, tmp_path: Path) -> Path:
    """The tiny autoencoder on disk."""
    save_autoencoder(model, tmp_path)
    return tmp_path


def images(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def as_backbone(backbone: Backbone) -> Backbone:
    """Checked by mypy as much as by ``isinstance``."""
    assert isinstance(backbone, Backbone)
    return backbone


def test_it_is_a_backbone(folder: Path) -> None:
    backbone = as_backbone(CompactBackbone.from_folder(folder))
    assert (backbone.name, backbone.dims, backbone.image_size) == ("compact", 2, 256)
    latents = backbone.encode(images())
    assert latents.shape == (3, backbone.latent_channels, 64 // backbone.downscale, 8)
    assert backbone.decode(latents).shape == (3, 1, 64, 64)
    assert torch.equal(backbone.decode_rgb(latents), backbone.decode(latents))
    assert [tuple(f.shape[1:]) for f in backbone.features(images())] == [
        (8, 32, 32),
        (8, 16, 16),
        (16, 8, 8),
        (16, 8, 8),
        (16, 8, 8),
    ]
    with pytest.raises(ModelError, match="no denoiser"):
        backbone.denoise(latents, 1, torch.zeros(1, 1, backbone.condition_dim))
    with pytest.raises(ModelError, match="no denoiser"):
        backbone.features(images(), timestep=1)


def test_it_is_frozen_and_repeats_itself(folder: Path) -> None:
    backbone = CompactBackbone.from_folder(folder)
    parameters = [*backbone.vae.parameters(), *backbone.mask_head.parameters()]
    assert not any(p.requires_grad for p in parameters)
    assert not backbone.vae.training
    latents = backbone.encode(images())
    assert torch.equal(latents, backbone.encode(images()))
    assert not latents.requires_grad


def test_latents_are_scaled(model: CompactAutoencoder, folder: Path) -> None:
    backbone = CompactBackbone.from_folder(folder)
    assert backbone.scaling == pytest.approx(0.25)
    with torch.no_grad():
        mean = model.vae.encode(images()).latent_dist.mean
        decoded = model.vae.decode(mean).sample
    torch.testing.assert_close(backbone.encode(images()), mean / 4, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(backbone.decode(mean / 4), decoded, atol=2e-2, rtol=1e-2)


def test_slabs_and_shared_passes_change_nothing(folder: Path) -> None:
    whole, sliced = (CompactBackbone(*load_autoencoder(folder), slab=slab) for slab in (8, 2))
    latents, stages = whole.encode_with_features(images(5))
    torch.testing.assert_close(latents, sliced.encode(images(5)))
    torch.testing.assert_close(stages, sliced.features(images(5)))
    torch.testing.assert_close(whole.decode(latents), sliced.decode(latents))


def test_the_file_holds_half_precision_and_nothing_is_lost(model: CompactAutoencoder, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["autoencoder.json", "autoencoder.safetensors"]
    vae, head = load_autoencoder(folder)
    for saved, loaded in ((model.vae, vae), (model.mask_head, head)):
        assert isinstance(saved, nn.Module)
        for name, tensor in saved.state_dict().items():
            assert torch.equal(tensor.half().float(), loaded.state_dict()[name])
    assert json.loads((folder / "autoencoder.json").read_text(encoding="utf-8"))["scaling_factor"] == 0.25
    assert (folder / "autoencoder.safetensors").stat().st_mode & 0o044  # readable by others, as other results
    before = (folder / "autoencoder.safetensors").read_bytes()
    save_autoencoder(model, folder)
    assert (folder / "autoencoder.safetensors").read_bytes() == before


def test_the_scale_follows_the_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    packs.shrink_networks(monkeypatch)
    model = CompactAutoencoder()
    assert float(model.scaling) == 1
    for _ in range(1500):
        model.track(torch.full((2, 4, 3, 3), 5.0))
    assert float(model.scaling) == pytest.approx(1 / 5, rel=1e-3)
    assert "latent_variance" in model.state_dict()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "autoencoder.safetensors").unlink(),
        lambda f: (f / "autoencoder.json").unlink(),
        lambda f: (f / "autoencoder.json").write_text("{", encoding="utf-8"),
        lambda f: (f / "autoencoder.json").write_text("[]", encoding="utf-8"),
        lambda f: (f / "autoencoder.json").write_text(json.dumps({"nonsense": 1}), encoding="utf-8"),
        lambda f: (f / "autoencoder.json").write_text(
            json.dumps({**AUTOENCODER_CONFIG, "latent_channels": 8}), encoding="utf-8"
        ),
        lambda f: (f / "autoencoder.safetensors").write_bytes(b"{}\nno\nweights"),
        lambda f: (f / "autoencoder.safetensors").write_bytes(
            (f / "autoencoder.safetensors").read_bytes()[:-10]
        ),
        lambda f: write_weights(f / "autoencoder.safetensors", {"vae.x": torch.ones(1)}),
    ],
)
def test_damaged_files_are_one_sentence(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        CompactBackbone.from_folder(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    assert len(message) < 400 + len(str(folder))


def test_weights_keep_names_and_integers(tmp_path: Path) -> None:
    tensors = {"a.b": torch.rand(3, 2).T, "c": torch.ones((), requires_grad=True)}
    write_weights(tmp_path / "w.safetensors", tensors)
    read = read_weights(tmp_path / "w.safetensors")
    assert read.keys() == tensors.keys()
    assert all(t.dtype == torch.float32 for t in read.values())
    torch.testing.assert_close(read["a.b"], tensors["a.b"], atol=1e-3, rtol=0)


def test_a_reason_is_short() -> None:
    assert reason(ValueError("two\n  lines")) == "two lines"
    assert reason(KeyError()) == "KeyError"
    assert len(reason(ValueError("x" * 999))) == 160
