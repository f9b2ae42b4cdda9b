"""Training the autoencoder: its batches, its loss and what it exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import packs
from latentseg.backbones.compact import CompactBackbone
from latentseg.training.autoencoder import (
    AutoencoderOptions,
    AutoencoderTask,
    build,
    gradient_difference,
    random_masks,
)
from latentseg.training.discriminator import adaptive_weight
from latentseg.training.loop import LoopOptions
from latentseg.training.pack import Pack
from latentseg.training.painting import blobs

FIRST = "autoencoder.vae.encoder.conv_in.weight"
OPTIONS = AutoencoderOptions(loop=LoopOptions(steps=10, learning_rate=3e-3), batch=8, crop=32)


@pytest.fixture
def task(packed: Pack, monkeypatch: pytest.MonkeyPatch) -> AutoencoderTask:
    packs.shrink_networks(monkeypatch)
    return build(OPTIONS, packed)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_batches_are_crops_then_whole_slices(task: AutoencoderTask) -> None:
    batch = task.batch(rng(), 0.0)
    assert batch.images.shape == (8, 1, 32, 32)
    assert batch.masks == 2
    assert float(batch.images.abs().max()) <= 1
    masks = batch.images[-batch.masks :]
    assert set(masks.unique().tolist()) <= {-1.0, 1.0}
    assert len(batch.images[: -batch.masks].unique()) > 100
    assert task.batch(rng(), 0.9).images.shape == (4, 1, 64, 64)


def test_a_batch_depends_on_the_generator_alone(task: AutoencoderTask, packed: Pack) -> None:
    task.batch(rng(9), 0.2)
    torch.manual_seed(3)
    again = AutoencoderTask(OPTIONS, packed)
    assert torch.equal(task.batch(rng(1), 0.2).images, again.batch(rng(1), 0.2).images)
    assert not torch.equal(task.batch(rng(2), 0.2).images, again.batch(rng(1), 0.2).images)


def test_it_works_without_supervoxels(task: AutoencoderTask, tmp_path: Path) -> None:
    bare = AutoencoderTask(OPTIONS, packs.small_pack(tmp_path, supervoxels=False))
    assert bare.batch(rng(), 0.0).images.shape == (8, 1, 32, 32)


def test_short_scans_are_not_drowned(packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packs.shrink_networks(monkeypatch)
    packed = Pack(packed.folder)
    packed.scans = [
        scan.model_copy(update=change)
        for scan, change in zip(packed.scans, ({"count": 1}, {"first": 1, "count": 16}), strict=True)
    ]
    chance = AutoencoderTask(OPTIONS, packed).chance
    assert chance.sum() == pytest.approx(1)
    assert chance[1:].sum() / chance[0] == pytest.approx(4)


def test_the_first_weights_come_from_the_seed(packed: Pack, task: AutoencoderTask) -> None:
    same = build(OPTIONS, packed).model.state_dict()
    assert all(torch.equal(t, same[name]) for name, t in task.model.state_dict().items())
    seed = OPTIONS.loop.model_copy(update={"seed": 1})
    other = build(OPTIONS.model_copy(update={"loop": seed}), packed).model.state_dict()
    assert not torch.equal(other[FIRST], same[FIRST])


@pytest.mark.parametrize(
    ("progress", "trained"), [(0.0, {"autoencoder"}), (0.7, {"autoencoder", "discriminator"})]
)
def test_ten_steps_lower_the_loss_and_train_every_part(
    task: AutoencoderTask, progress: float, trained: set[str]
) -> None:
    batch = task.batch(rng(), progress)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    before = {name: p.detach().clone() for name, p in task.model.named_parameters()}
    losses = []
    for step in range(10):
        torch.manual_seed(step)
        loss, figures = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(figures["l1"] + figures["edges"] + figures["mask_head"])
    hinge = {"realism", "discriminator"} if batch.adversarial else set()
    assert figures.keys() == {"l1", "edges", "kl", "mask_head", *hinge}
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    moved = {
        name.split(".")[0] for name, p in task.model.named_parameters() if not torch.equal(p, before[name])
    }
    assert moved == trained
    assert float(task.model.autoencoder.latent_variance) != 1


def test_the_discriminator_learns_and_does_not_push_itself(task: AutoencoderTask) -> None:
    judge = task.model.discriminator
    real, decoded = torch.rand(4, 1, 32, 32), torch.zeros(4, 1, 32, 32, requires_grad=True)
    judge.realism(decoded).backward()
    assert decoded.grad is not None
    assert all(p.grad is None for p in judge.parameters())
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        judge.loss(real, decoded).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(judge(real).mean()) > float(judge(decoded).mean()) + 0.5


def test_the_adaptive_weight_balances_gradients() -> None:
    layer = torch.tensor([3.0, 4.0], requires_grad=True)
    weight = adaptive_weight((2 * layer).sum(), (0.5 * layer).sum(), layer)
    assert float(weight) == pytest.approx(4, rel=1e-3)
    assert not weight.requires_grad


def test_the_mask_head_does_not_steer_the_encoder(task: AutoencoderTask) -> None:
    images = random_masks(blobs(rng(), 2, 32), rng())
    model = task.model.autoencoder
    latents = model.vae.encode(images).latent_dist.mode()
    logits = model.mask_head(latents.detach())
    assert logits.shape == images.shape
    logits.mean().backward()
    assert model.vae.encoder.conv_in.weight.grad is None
    assert model.mask_head[0].weight.grad is not None


def test_export_and_load(task: AutoencoderTask, tmp_path: Path) -> None:
    task.export(task.model, tmp_path)
    backbone = CompactBackbone.from_folder(tmp_path)
    images = task.batch(rng(), 0.9).images
    with torch.no_grad():
        model = task.model.autoencoder
        mean = model.vae.encode(images).latent_dist.mean * model.scaling
        logits = model.mask_head(mean)
    torch.testing.assert_close(backbone.encode(images), mean, atol=5e-3, rtol=1e-2)
    torch.testing.assert_close(backbone.mask_head(mean), logits, atol=5e-3, rtol=1e-2)


def test_random_masks() -> None:
    maps = blobs(rng(), 60, 24)
    masks = random_masks(maps, rng(1))
    assert masks.shape == (60, 1, 24, 24)
    assert torch.equal(masks, random_masks(maps, rng(1)))
    empty = masks.amax((1, 2, 3)) < 0
    assert 0 < int(empty.sum()) < 20  # some targets are not there
    for labels, mask in zip(maps, masks[:, 0] > 0, strict=True):
        inside = set(labels[mask].unique().tolist())
        assert len(inside) <= 2
        assert not inside & set(labels[~mask].unique().tolist())  # whole labels


def test_gradient_difference() -> None:
    flat = torch.zeros(1, 1, 16, 16)
    edge = flat.clone()
    edge[..., 8:] = 1
    assert float(gradient_difference(flat, flat + 0.7)) == pytest.approx(0)
    # one column of 15 differences at each scale, the other direction has none
    assert float(gradient_difference(flat, edge)) == pytest.approx((1 / 15 + 1 / 7) / 2)
    assert float(gradient_difference(edge, flat)) == float(gradient_difference(flat, edge))
