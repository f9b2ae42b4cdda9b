"""Holes in healthy tissue, and the denoiser that is trained with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers import packs
from latentseg.backbones.base import FillsHoles, hole_context
from latentseg.backbones.compact import CompactAutoencoder, CompactBackbone, save_autoencoder
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint
from latentseg.training.denoiser import DenoiserOptions, DenoiserTask, build
from latentseg.training.holes import HoleOptions, draw_hole
from latentseg.training.loop import LoopOptions
from latentseg.training.pack import Pack

HOLES = HoleOptions(share=1.0, healthy=("phantom",), radius=(4, 9), clearance=2)
OPTIONS = DenoiserOptions(
    loop=LoopOptions(steps=10, learning_rate=3e-3),
    batch=6,
    variants=2,
    phrases={"phantom": ("abdomen",)},
    findings=("spleen",),  # a lesion for the sake of the test
    drop=0.0,
    drop_all=0.0,
    holes=HOLES,
)


def fake_embed(phrases: Sequence[str]) -> NDArray[np.float32]:
    """One random vector a phrase."""
    return np.random.default_rng(1).standard_normal((len(phrases), 384)).astype(np.float32)


def body() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A body with an organ (1) that has a finding (2)."""
    image, labels = np.zeros((96, 96), np.uint8), np.zeros((96, 96), np.uint8)
    image[10:86, 10:86], labels[20:60, 20:60], labels[30:40, 30:40] = 120, 1, 2
    return image, labels


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_holes_keep_away_from_findings(seed: int) -> None:
    image, labels = body()
    hole = draw_hole(image, labels, np.random.default_rng(seed), HOLES, organs=(1,), findings=(2,))
    assert hole is not None
    assert hole.mask.sum() >= 30
    rows, columns = np.nonzero(hole.mask)
    near = (rows >= 29) & (rows < 41) & (columns >= 29) & (columns < 41)
    assert not near.any()


def test_the_label_is_that_of_the_organ_the_hole_is_in() -> None:
    image, labels = body()
    inside = HOLES.model_copy(update={"organs": 1.0, "radius": (4.0, 4.5), "most": 1})
    outside = inside.model_copy(update={"organs": 0.0})
    for seed in range(8):
        hole = draw_hole(image, labels, np.random.default_rng(seed), inside, organs=(1,), findings=(2,))
        assert hole is not None
        assert hole.label == 1
        assert (labels[hole.mask] == 1).mean() > 0.4
        other = draw_hole(image, labels, np.random.default_rng(seed), outside, organs=(1,), findings=(2,))
        assert other is not None
        assert other.label == 0


def test_no_hole_without_healthy_tissue() -> None:
    image, labels = body()
    rng = np.random.default_rng(0)
    assert draw_hole(np.zeros_like(image), labels, rng, HOLES, organs=(1,), findings=(2,)) is None
    everywhere = np.full_like(labels, 2)
    assert draw_hole(image, everywhere, rng, HOLES, organs=(1,), findings=(2,)) is None


@pytest.fixture
def task(packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DenoiserTask:
    packs.shrink_networks(monkeypatch)
    torch.manual_seed(0)
    save_autoencoder(CompactAutoencoder(), tmp_path)
    return build(OPTIONS, packed, CompactBackbone.from_folder(tmp_path), embed=fake_embed)


def test_nothing_of_a_hole_is_left_around_it(task: DenoiserTask) -> None:
    row = 6
    around = task._around(row, 0, HOLES)
    assert around is not None
    assert around is task._around(row, 0, HOLES)
    before = around.latents.clone()
    task.around.clear()
    image = task.packed.images[row // 2].copy()
    cells = np.kron(around.cells[0].numpy(), np.ones((8, 8)))
    # what is removed is changed: neither what is known nor where the hole is may follow
    mask = draw_hole(
        image,
        np.array(task.packed.labels[3]),
        np.random.default_rng((3, 0, 0)),
        HOLES,
        organs=tuple(i for i, name in task.packed.scans[0].labels.items() if name != "spleen"),
        findings=(4,),
    )
    assert mask is not None
    assert cells[mask.mask].all()
    task.packed.images = np.array(task.packed.images)
    task.packed.images[3][mask.mask] = 255 - task.packed.images[3][mask.mask] // 2
    again = task._around(row, 0, HOLES)
    assert again is not None
    torch.testing.assert_close(again.latents, before)


def test_batches_hold_the_truth_in_holes_alone(task: DenoiserTask) -> None:
    batch = task.batch(np.random.default_rng(0), 0.0)
    assert batch.context.shape == (6, 5, 8, 8)
    holes = batch.context[:, :1]
    assert ((holes == 0) | (holes == 1)).all()
    assert float(holes.mean((1, 2, 3)).min()) < 1
    torch.testing.assert_close(batch.context[:, 1:], batch.latents * (1 - holes))
    whole = task.options.model_copy(update={"holes": HOLES.model_copy(update={"share": 0.0})})
    task.options = whole
    assert float(task.batch(np.random.default_rng(0), 0.0).context[:, :1].min()) == 1


def test_only_what_is_made_of_holes_counts(task: DenoiserTask, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = task.batch(np.random.default_rng(0), 0.0)
    loss, figures = task.loss(batch)
    assert {"holes", "noisy"} <= figures.keys()
    loss.backward()
    assert float(task.model.conv_in.weight.grad[:, 4:].abs().max()) > 0
    inside = batch.context[:, :1]

    def right_in_holes(told: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
        assert torch.equal(told[:, 4:], batch.context)
        return (torch.where(inside > 0, batch.noise - batch.latents, 99.0),)

    monkeypatch.setattr(task, "model", right_in_holes)
    assert float(task.loss(batch)[0]) == pytest.approx(0)


def test_inpainting_tells_the_denoiser_what_is_around(task: DenoiserTask, tmp_path: Path) -> None:
    task.export(task.model, tmp_path)
    backbone = CompactBackbone.from_folder(tmp_path)
    assert isinstance(backbone, FillsHoles)
    assert backbone.fills_holes
    batch = task.batch(np.random.default_rng(0), 0.0)
    latents, holes = batch.latents[:2], torch.zeros(2, 1, 8, 8)
    holes[:, :, 2:5, 3:6] = 1
    tokens, options = batch.tokens[:1], InpaintingOptions(steps=2, guidance=2.0)
    filled = inpaint(backbone, latents, holes, tokens, keys=["a", "b"], options=options)
    assert torch.equal(filled * (1 - holes), latents * (1 - holes))
    context = hole_context(latents, holes)
    told = backbone.denoise_hole(latents, 400, tokens, context)
    untold = backbone.denoise(latents, 400, tokens)
    assert told.shape == latents.shape
    assert not torch.allclose(told, untold)
