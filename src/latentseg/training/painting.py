"""Label maps painted with random contrasts: anatomy that no scanner took, whose labels are exact."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.training.augment import noise


def paint(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Paint each label of each map with a random grey value, texture and blurred border.

    Args:
        labels: Integer maps ``(n, H, W)``; 0 is background and stays dark for most maps.
        rng: Source of all draws.

    Returns:
        Images ``(n, 1, H, W)`` in [-1, 1].
    """
    n, height, width = labels.shape
    top = int(labels.max()) + 1
    mean = torch.tensor(rng.uniform(-0.9, 1, (n, top)), dtype=torch.float32)
    mean[torch.tensor(rng.random(n) < 0.8), 0] = -1
    spread = torch.tensor(rng.uniform(0, 0.18, (n, top)) * (rng.random((n, top)) < 0.7), dtype=torch.float32)
    spread[:, 0] *= 0.2
    index = labels.flatten(1).long()
    image = torch.gather(mean, 1, index).view(n, 1, height, width)
    texture = _texture(rng, n, (height, width)) * torch.gather(spread, 1, index).view_as(image)
    return (_soften(image, rng) + texture).clamp(-1, 1)


def blobs(rng: np.random.Generator, n: int, size: int) -> Tensor:
    """Maps ``(n, size, size)`` of a few smooth random regions, for anatomy-free shapes and masks."""
    cells = int(rng.choice([4, 6, 9, 14]))
    regions = int(rng.integers(3, 9))
    fields = F.interpolate(
        noise(rng, (n, regions, cells, cells)), size=(size, size), mode="bicubic", align_corners=True
    )
    return fields.max(1).indices


def _texture(rng: np.random.Generator, n: int, size: tuple[int, int]) -> Tensor:
    """Noise of unit variance whose grain differs from image to image."""
    grain = int(rng.choice([1, 2, 4]))
    coarse = noise(rng, (n, 1, size[0] // grain, size[1] // grain))
    return F.interpolate(coarse, size=size, mode="bilinear") if grain > 1 else coarse


def _soften(image: Tensor, rng: np.random.Generator) -> Tensor:
    width = float(rng.uniform(0.3, 1.2))
    x = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / width) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(image, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 7)), kernel.view(1, 1, 7, 1))
