"""Training the denoiser: descriptions, batches, loss, export; and the denoiser of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentseg.backbones.compact import (
    TOKENS,
    CompactBackbone,
    condition_tokens,
    save_denoiser,
)
from latentseg.errors import ModelError
from latentseg.training.denoiser import DenoiserOptions, DenoiserTask, build, describe
from latentseg.training.loop import LoopOptions
from latentseg.training.pack import Pack

OPTIONS = DenoiserOptions(
    loop=LoopOptions(steps=10, learning_rate=3e-3),
    batch=6,
    variants=2,
    phrases={"phantom": ("abdomen",)},
    findings=("spleen",),  # a lesion for the sake of the test
    names={"vertebrae": "spine"},
)


def fake_embed(phrases: Sequence[str]) -> NDArray[np.float32]:
    """One random unit vector a phrase."""
    rows = [np.random.default_rng(len(p) + ord(p[0])).standard_normal(384) for p in phrases]
    return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)


@pytest.fixture
def task(packed: Pack, backbone: CompactBackbone) -> DenoiserTask:
    return build(OPTIONS, packed, backbone, embed=fake_embed)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_slices_are_described_by_what_they_show(packed: Pack) -> None:
    for description, labels in zip(describe(packed, OPTIONS), packed.labels, strict=True):
        spleen = int((labels == 4).sum()) >= 20
        assert description.always == ("CT", "abdomen", "with tumor" if spleen else "healthy")
        if spleen:
            assert description.structures == ("spleen",)
        else:
            assert set(description.structures) <= {"liver", "kidney right", "spine"}
    assert {d.always[2] for d in describe(packed, OPTIONS)} == {"with tumor", "healthy"}
    assert describe(packed, OPTIONS.model_copy(update={"findings": ()}))[0].always == ("CT", "abdomen")


def test_batches(task: DenoiserTask) -> None:
    batch = task.batch(rng(), 0.0)
    assert batch.latents.shape == batch.noise.shape == (6, 4, 8, 8)
    assert batch.tokens.shape == (6, TOKENS, 384)
    assert float(batch.times.min()) > 0
    assert float(batch.times.max()) < 1
    again = task.batch(rng(), 0.5)  # now from memory
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_the_first_variant_is_the_slice_itself(task: DenoiserTask) -> None:
    task._encode(np.array([6, 7, 6]))
    image = torch.tensor(task.packed.images[3], dtype=torch.float32)[None, None] / 127.5 - 1
    expected = task.backbone.encode(image)[0]
    torch.testing.assert_close(torch.from_numpy(task.latents[6]).float(), expected, atol=2e-3, rtol=2e-3)
    assert not np.array_equal(task.latents[6], task.latents[7])
    assert task.encoded.sum() == 2


def test_tokens_are_dropped_alone_and_together(task: DenoiserTask) -> None:
    tokens = torch.cat([task.batch(rng(seed), 0.0).tokens for seed in range(60)])
    said = (tokens.norm(dim=2) > 0).float()
    assert said[:, 0].mean() == pytest.approx(0.9 * 0.85, abs=0.07)
    assert (said.sum(1) == 0).float().mean() == pytest.approx(0.1, abs=0.05)


def test_steps_lower_the_loss(task: DenoiserTask) -> None:
    batch = task.batch(rng(), 0.0)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss, figures = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert figures.keys() == {"noisy", "clean", "whole"}


def test_the_loss_is_that_of_the_velocity(task: DenoiserTask, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = task.batch(rng(), 0.0)

    def exact(
        noisy: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor, **_: object
    ) -> tuple[torch.Tensor]:
        t = (timestep / 1000)[:, None, None, None]
        torch.testing.assert_close(noisy, batch.latents + t * (batch.noise - batch.latents))
        return ((noisy - batch.latents) / t,)

    monkeypatch.setattr(task, "model", exact)
    assert float(task.loss(batch)[0]) < 1e-6


def test_export_and_denoise(task: DenoiserTask, folder: Path) -> None:
    task.export(task.model, folder)
    backbone = CompactBackbone.from_folder(folder)
    assert backbone.has_denoiser
    assert not any(p.requires_grad for p in backbone.unet.parameters())
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    condition = condition_tokens(torch.from_numpy(fake_embed(["CT", "liver"])))
    with torch.no_grad():
        expected = task.model(latents, 300, condition.expand(2, -1, -1)).sample
    torch.testing.assert_close(backbone.denoise(latents, 300, condition), expected, atol=1e-2, rtol=1e-2)


def test_zero_tokens_say_nothing(task: DenoiserTask, folder: Path) -> None:
    task.export(task.model, folder)
    backbone = CompactBackbone.from_folder(folder)
    latents = torch.ones(1, 4, 8, 8)
    one, four = (backbone.denoise(latents, 500, torch.zeros(1, n, 384)) for n in (1, TOKENS))
    torch.testing.assert_close(one, four, atol=1e-5, rtol=1e-5)
    assert condition_tokens(torch.zeros(0, 384)).shape == (1, TOKENS, 384)
    with pytest.raises(ValueError, match="5 phrases, at most 4"):
        condition_tokens(torch.zeros(5, 384))


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_bad_denoisers_are_named(task: DenoiserTask, folder: Path, damage: str) -> None:
    if damage != "missing":
        task.export(task.model, folder)
        file = folder / "denoiser.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    if damage == "other":
        save_denoiser(task.model, folder)
        (folder / "denoiser.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"denoiser|cannot be read"):
        _ = CompactBackbone.from_folder(folder).unet


def test_it_goes_on_from_trained_weights(task: DenoiserTask, folder: Path, packed: Pack) -> None:
    task.export(task.model, folder)
    file = folder / "denoiser.safetensors"
    other = OPTIONS.model_copy(update={"loop": OPTIONS.loop.model_copy(update={"seed": 7})})
    again = build(other, packed, CompactBackbone.from_folder(folder), embed=fake_embed, weights=file)
    for name, tensor in task.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    assert all(p.requires_grad for p in again.model.parameters())
    for path, what in ((folder / "autoencoder.safetensors", "do not fit"), (folder / "no", "cannot be read")):
        with pytest.raises(ModelError, match=what):
            build(other, packed, task.backbone, embed=fake_embed, weights=path)
