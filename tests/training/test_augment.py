"""Augmentation: in range, a function of the generator alone, and the same geometry for image and mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latentseg.training.augment import (
    PLAIN,
    Geometry,
    another_phase,
    intensity_curves,
    noise,
    recolor,
    sampling_grid,
    warp,
)
from latentseg.training.painting import blobs, paint

STILL = Geometry(degrees=0, zoom=(1, 1), stretch=0, shift=0, elastic=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def images() -> Tensor:
    """Three smooth slices ``(3, 1, 48, 48)`` that use all of [-1, 1]."""
    smooth = torch.nn.functional.interpolate(noise(rng(3), (3, 1, 6, 6)), size=48, mode="bicubic")
    low, high = smooth.amin((1, 2, 3), keepdim=True), smooth.amax((1, 2, 3), keepdim=True)
    return (smooth - low) / (high - low) * 2 - 1


def test_no_deformation_changes_nothing(images: Tensor) -> None:
    grid = sampling_grid(rng(), 3, 48, STILL)
    assert grid.shape == (3, 48, 48, 2)
    torch.testing.assert_close(warp(images, grid), images, atol=1e-5, rtol=0)
    assert torch.equal(warp((images > 0).float(), grid, nearest=True), (images > 0).float())


def test_a_flip_mirrors_left_and_right(images: Tensor) -> None:
    grid = sampling_grid(rng(), 3, 48, STILL.model_copy(update={"flip": 1.0}))
    torch.testing.assert_close(warp(images, grid), images.flip(-1), atol=1e-5, rtol=0)


def test_zoom_and_shift_move_a_square_as_they_say() -> None:
    square = torch.zeros(1, 1, 64, 64)
    square[..., 24:40, 24:40] = 1
    grid = sampling_grid(rng(), 1, 64, STILL.model_copy(update={"zoom": (0.5, 0.5)}))
    assert float(warp(square, grid).sum()) == pytest.approx(4 * 16**2, rel=0.02)
    moved = [
        warp(square, sampling_grid(rng(i), 1, 64, STILL.model_copy(update={"shift": 0.1}))) for i in range(20)
    ]
    centers = torch.stack([torch.stack(torch.where(m[0, 0] > 0.5)).float().mean(1) for m in moved])
    offset = (centers - 31.5).abs()
    assert 3 < float(offset.max()) <= 0.1 * 64 + 0.6
    assert all(float(m.sum()) == pytest.approx(256, rel=0.01) for m in moved)


def test_every_image_is_deformed_in_its_own_way(images: Tensor) -> None:
    same = images[:1].expand(3, -1, -1, -1)
    out = warp(same, sampling_grid(rng(), 3, 48, Geometry()))
    assert float((out[0] - out[1]).abs().mean()) > 0.02


def test_outside_of_a_slice_is_its_darkest_value(images: Tensor) -> None:
    away = sampling_grid(rng(), 3, 48, STILL) + 5
    out = warp(images + 3, away)
    assert torch.allclose(out, (images + 3).amin((1, 2, 3), keepdim=True).expand_as(out))


def test_nearest_reading_makes_no_new_label() -> None:
    labels = blobs(rng(1), 4, 48)[:, None].float() * 7
    out = warp(labels, sampling_grid(rng(2), 4, 48, Geometry(degrees=30)), nearest=True)
    assert set(out.unique().tolist()) <= set(labels.unique().tolist())


def test_intensity_curves_span_the_range() -> None:
    curves = intensity_curves(rng(), 300)
    assert curves.shape == (300, 256)
    assert torch.allclose(curves.amin(1), torch.tensor(-1.0))
    assert torch.allclose(curves.amax(1), torch.tensor(1.0))
    steps = curves.diff(dim=1)
    rising = (steps >= -1e-6).all(1).float().mean()
    falling = (steps[:, 32:] <= 1e-6).all(1).float().mean()  # air may stay dark below an inverted body
    assert 0.15 < float(rising) < 0.6
    assert 0.15 < float(falling) < 0.6


def test_recoloring_keeps_the_range_and_depends_on_the_generator_alone(images: Tensor) -> None:
    many = images.repeat(20, 1, 1, 1)
    torch.manual_seed(1)
    out = recolor(many, rng(5))
    torch.manual_seed(2)
    assert torch.equal(out, recolor(many, rng(5)))
    assert not torch.equal(out, recolor(many, rng(6)))
    assert out.shape == many.shape
    assert float(out.min()) >= -1
    assert float(out.max()) <= 1
    assert out.isfinite().all()


def test_recoloring_gives_equal_slices_different_looks(images: Tensor) -> None:
    out = recolor(images[:1].expand(30, -1, -1, -1), rng())
    together = torch.corrcoef(out.flatten(1))
    assert float(together.min()) < -0.3  # some are inverted
    assert float((out[:-1] - out[1:]).abs().mean()) > 0.2


def test_slices_of_one_look_share_their_curve(images: Tensor) -> None:
    same = images[:1].expand(40, -1, -1, -1)
    contrasts = torch.arange(40) // 2 * 2
    pairs = recolor(same, rng(), contrasts=contrasts).unflatten(0, (20, 2)).flatten(2)
    alike = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs])
    assert float(alike.min()) > 0.5  # bias field, noise and resolution are still each slice's own
    assert float(alike.median()) > 0.8
    assert not torch.equal(pairs[:, 0], pairs[:, 1])
    assert torch.equal(recolor(same, rng(), contrasts=torch.arange(40)), recolor(same, rng()))


def test_noise_is_standard_normal() -> None:
    sample = noise(rng(), (100, 100))
    assert abs(float(sample.mean())) < 0.05
    assert float(sample.std()) == pytest.approx(1, abs=0.05)


def test_painted_labels() -> None:
    maps = blobs(rng(), 24, 48)
    maps[:, :12] = 0
    out = paint(maps, rng(1))
    assert torch.equal(out, paint(maps, rng(1)))
    assert out.shape == (24, 1, 48, 48)
    assert float(out.abs().max()) <= 1
    background = out[:, 0, :8].mean((1, 2))
    assert 0.5 < float((background < -0.8).float().mean()) < 1  # mostly dark, as air is
    one = maps[0] == maps[0, 40, 40]
    assert float(out[0, 0][one].std()) < float(out[0, 0].std())
    assert float(paint(torch.zeros(2, 16, 16, dtype=torch.long), rng()).abs().max()) <= 1


def test_blobs_are_regions() -> None:
    for seed in range(5):
        maps = blobs(rng(seed), 3, 40)
        assert maps.shape == (3, 40, 40)
        assert all(2 <= len(labels.unique()) <= 8 for labels in maps)
        same = (maps[:, 1:] == maps[:, :-1]).float().mean()
        assert float(same) > 0.6  # neighbors mostly belong together


def test_another_phase_changes_labelled_organs_and_nothing_else() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[8:28, 8:56], labels[36:56, 8:56] = 1, 2
    image = np.where(labels == 1, 0.5, np.where(labels == 2, 0.2, -0.5)).astype(np.float32)
    image += 0.03 * rng().standard_normal(image.shape).astype(np.float32)
    levels = []
    for seed in range(40):
        shown = another_phase(image, labels, rng(seed))
        assert shown.shape == image.shape
        assert np.array_equal(shown[:3], image[:3])
        inner = shown[12:24, 12:52]
        assert 0.02 < inner.std() < 0.05, "the noise stays"
        levels.append((float(np.median(inner)), float(np.median(shown[40:52, 12:52]))))
    unenhanced = [a for a, b in levels if abs(a - PLAIN) < 0.15 and abs(b - PLAIN) < 0.15]
    assert 5 <= len(unenhanced) <= 20
    assert np.ptp([a for a, _ in levels]) > 0.5
