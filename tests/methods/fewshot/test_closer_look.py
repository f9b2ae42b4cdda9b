"""The closer look of the matching prior: small targets get finer borders, large and absent ones none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.closer_look import CloserOptions, CloserSupport
from latentseg.methods.log_odds import log_odds, probability

SIZE = 128


def features(images: Tensor) -> Tensor:
    """Unit vectors that turn with the grey value, on a grid of 16 pixels: too coarse for the disk."""
    grey = F.avg_pool2d(images, 16)[:, 0]
    return torch.stack([torch.cos(grey), torch.sin(grey)], 1)


def disk(row: float, column: float, radius: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((rows - row) ** 2 + (columns - column) ** 2) < radius**2).float()


def support(radius: float, options: CloserOptions | None = None) -> CloserSupport | None:
    mask = disk(60, 64, radius)[None]
    images = (2 * mask - 1)[:, None]
    return CloserSupport.of(images, mask, features, shots=1, options=options or CloserOptions(smallest=40))


def look(near: CloserSupport, images: Tensor, chance: np.ndarray, **more: Tensor) -> np.ndarray:
    """Probability after a closer look at what is above one half."""
    first = log_odds(torch.from_numpy(chance))
    return probability(near.compare(images, first, first, features=features, **more)).numpy()


def dice(found: np.ndarray, truth: Tensor) -> float:
    mask = truth.numpy() > 0
    return float(2 * ((found >= 0.5) & mask).sum() / ((found >= 0.5).sum() + mask.sum()))


def test_borders_become_finer() -> None:
    near, truth = support(14), disk(52, 70, 13)
    assert near is not None
    rough = F.interpolate(F.avg_pool2d(truth[None, None], 16), size=(SIZE, SIZE), mode="bilinear")[0].numpy()
    closer = look(near, (2 * truth - 1)[None, None], rough)
    assert closer.shape == (1, SIZE, SIZE)
    assert dice(closer[0], truth) > dice(rough[0], truth) + 0.05


def test_slices_without_a_finding_stay_as_they_are() -> None:
    near, truth = support(14), disk(52, 70, 13)
    assert near is not None
    images = (2 * torch.stack([truth, truth]) - 1)[:, None]
    chance = np.stack([truth.numpy() * 0.8, np.full((SIZE, SIZE), 0.2)]).astype(np.float32)
    closer = look(near, images, chance)
    np.testing.assert_allclose(closer[1], chance[1], atol=1e-5)
    assert np.abs(closer[0] - chance[0]).max() > 0.05
    outside = disk(52, 70, 40).numpy() == 0
    np.testing.assert_allclose(closer[0][outside], chance[0][outside], atol=2e-4)
    nothing = look(near, images, chance * 0)
    np.testing.assert_allclose(nothing, chance * 0, atol=2e-4)


def test_each_slice_has_its_own_support() -> None:
    masks = torch.stack([disk(60, 64, 14), disk(40, 30, 9)])
    images = torch.stack([2 * masks[0] - 1, 1 - 2 * masks[1]])[:, None]
    near = CloserSupport.of(images, masks, features, shots=1, options=CloserOptions(smallest=40))
    assert near is not None
    assert near.edge.item() == pytest.approx(1.6 * 27)
    truth = torch.stack([disk(52, 70, 13), disk(52, 70, 13)])
    asked = torch.stack([2 * truth[0] - 1, 1 - 2 * truth[1]])[:, None]
    closer = look(near, asked, truth.numpy(), group=torch.tensor([0, 1]))
    assert dice(closer[0], truth[0]) > 0.8
    assert dice(closer[1], truth[1]) > 0.8


def test_large_targets_are_not_looked_at_again() -> None:
    assert support(40, CloserOptions(largest=100)) is None
    assert support(40, CloserOptions(largest=200)) is not None
