"""Larger networks from smaller ones: they compute the same at first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers import packs
from latentseg.backbones.compact import CompactAutoencoder, new_denoiser
from latentseg.errors import ModelError
from latentseg.training.growth import grow_from, grown

WHERE = Path("small.safetensors")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    packs.shrink_networks(monkeypatch)
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"decoder": {"layers_per_block": 2}}, {"latent_channels": 8, "decoder": {"layers_per_block": 2}}],
)
def test_a_larger_autoencoder_starts_as_the_smaller_one(changes: dict[str, object]) -> None:
    old, new = CompactAutoencoder().eval(), CompactAutoencoder(changes).eval()
    grow_from(new, old.state_dict(), where=WHERE)
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        before, after = (model.vae.encode(images).latent_dist for model in (old, new))
        torch.testing.assert_close(after.mean[:, :4], before.mean)
        torch.testing.assert_close(after.logvar[:, :4], before.logvar)
        decoded = new.vae.decode(after.mean).sample
        torch.testing.assert_close(decoded, old.vae.decode(before.mean).sample, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(new.mask_head(after.mean), old.mask_head(before.mean))


def test_every_weight_of_the_larger_network_can_learn() -> None:
    old, new = CompactAutoencoder(), CompactAutoencoder({"latent_channels": 6})
    grow_from(new, old.state_dict(), where=WHERE)
    new.vae.decode(new.vae.encode(torch.rand(1, 1, 32, 32)).latent_dist.mean).sample.mean().backward()
    assert float(new.vae.post_quant_conv.weight.grad[:, 4:].abs().max()) > 0


def test_a_denoiser_that_is_told_of_holes_ignores_them_at_first() -> None:
    old, new = new_denoiser().eval(), new_denoiser(holes=True).eval()
    grow_from(new, old.state_dict(), where=WHERE)
    noisy, context, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8, 8), torch.randn(2, 4, 384)
    with torch.no_grad():
        told = new(torch.cat([noisy, context], 1), 300, tokens).sample
        torch.testing.assert_close(told, old(noisy, 300, tokens).sample, atol=1e-5, rtol=1e-4)


def test_rows_of_halves_grow_in_each_half() -> None:
    old = torch.arange(4.0)
    assert grown(old, torch.full((6,), 9.0), halves=(2, 1)).tolist() == [0, 1, 9, 2, 3, 9]
    assert grown(old, torch.full((6,), 9.0)).tolist() == [0, 1, 2, 3, 9, 9]
    wide = grown(torch.ones(1, 2), torch.full((2, 3), 5.0))
    assert wide.tolist() == [[1, 1, 0], [5, 5, 5]]


@pytest.mark.parametrize(
    "changes", [{"no.such.layer": torch.zeros(1)}, {"mask_head.6.bias": torch.zeros(999)}]
)
def test_weights_of_another_network(changes: dict[str, torch.Tensor]) -> None:
    model = CompactAutoencoder()
    with pytest.raises(ModelError, match=r"weights do not fit.*(no\.such|mask_head\.6)"):
        grow_from(model, model.state_dict() | changes, where=WHERE)
