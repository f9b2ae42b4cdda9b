"""Asymmetry of a head by hand: the axis of a tilted head, a mass on one side, slices without an axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import latentseg as ls
from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.methods.tumor.symmetry import (
    LEAST,
    asymmetry,
    distance_to_nearest,
    mirror_axis,
    mirrored,
    reflections,
)

TILT, SHIFT = np.deg2rad(8.0), 0.12


def head(mass: bool = False) -> Tensor:
    """A slice ``(1, 1, 128, 128)`` of an upright head: skull, halves, ventricles; with a mass on one side."""
    y, x = torch.meshgrid(*2 * [(torch.arange(128) + 0.5) / 64 - 1], indexing="ij")
    image = torch.full((128, 128), -1.0)
    image[(x / 0.62) ** 2 + (y / 0.8) ** 2 < 1] = 0.8
    image[(x / 0.55) ** 2 + (y / 0.73) ** 2 < 1] = 0.1
    image[(x.abs() - 0.12) ** 2 / 0.006 + (y + 0.1) ** 2 / 0.04 < 1] = -0.6
    image[(x.abs() < 0.02) & (y < -0.3) & (y > -0.72)] = -0.3
    if mass:
        image[(x - 0.33) ** 2 + (y - 0.25) ** 2 < 0.02] = 0.6
    return F.avg_pool2d(image[None, None], 3, 1, 1)


def leaning(image: Tensor) -> Tensor:
    """The same, turned and moved, so that its axis leans by TILT and crosses (SHIFT, 0)."""
    cos, sin = np.cos(TILT), np.sin(TILT)
    theta = torch.tensor([[[cos, -sin, -SHIFT * cos], [sin, cos, -SHIFT * sin]]], dtype=torch.float32)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image + 1, grid, align_corners=False) - 1


def test_a_reflection_undoes_itself_and_keeps_its_axis() -> None:
    theta = reflections(torch.tensor([0.2]), torch.tensor([0.1]))
    whole = torch.cat([theta[0], torch.tensor([[0.0, 0.0, 1.0]])])
    torch.testing.assert_close(whole @ whole, torch.eye(3))
    on_axis = torch.tensor([0.1 + 0.5 * np.sin(0.2), 0.5 * np.cos(0.2), 1.0], dtype=torch.float32)
    torch.testing.assert_close(whole @ on_axis, on_axis)


@pytest.mark.parametrize("mass", [False, True])
def test_the_axis_of_a_leaning_head_is_found(mass: bool) -> None:
    image = leaning(head(mass))
    theta, likeness = mirror_axis(image)
    assert likeness > (0.8 if mass else 0.97)
    found = mirrored(leaning(head()), theta)
    assert (found - leaning(head())).abs().mean() < 0.02
    assert (leaning(head()).flip(-1) - leaning(head())).abs().mean() > 0.1, "upright it would be another"


def test_features_are_compared_with_the_nearest_around() -> None:
    own = torch.eye(9).view(1, 9, 3, 3)  # every cell of its own kind
    assert distance_to_nearest(own, own).abs().max() < 1e-5
    assert distance_to_nearest(own, own.roll(1, -1))[0, 0, :, :2].max() < 1e-5, "one cell beside"
    wide = torch.eye(16).view(1, 16, 4, 4)
    assert distance_to_nearest(wide, wide.roll(2, -1)).min() > 0.9, "two cells away"


def test_a_mass_on_one_side_has_no_counterpart() -> None:
    photographs = ls.load("tumor").networks.stages.photographs
    assert photographs is not None
    found = asymmetry(photographs, torch.cat([leaning(head(mass=True)), leaning(head())]))
    assert found.shape == (2, 1, 128, 128)
    mass = (leaning(head(mass=True)) - leaning(head()))[0, 0] > 0.2
    body = leaning(head())[0, 0] > -0.85
    assert found[0, 0][mass].mean() > 3 * found[0, 0][body & ~mass].abs().mean()
    assert found[0, 0][body].median().abs() < 1e-5


def test_a_slice_without_an_axis_says_nothing() -> None:
    image = torch.full((1, 1, 128, 128), -1.0)
    image[..., 20:60, 10:50], image[..., 60:110, 40:118], image[..., 30:50, 90:110] = 0.9, 0.0, 0.5
    assert mirror_axis(image)[1] < LEAST
    assert not asymmetry(FeatureNetwork(tiny_state()), image).any()
