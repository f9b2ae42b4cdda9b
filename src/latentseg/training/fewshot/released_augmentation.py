"""The augmentation of the released training, on tensors, drawn from one generator.

One side of a pair, support or query, is moved: rotation, translation, scale and shear, with mid-grey outside,
then an elastic field that is the same in every draw (at most 1.4 pixels; the release seeds it anew each
time). One side gets another gamma.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DEGREES, PIXELS, SCALE, SHEAR_DEGREES = 5.0, 5.0, (0.9, 1.2), 5.0
GAMMA = (0.5, 1.5)
ELASTIC_ALPHA, ELASTIC_SIGMA, ELASTIC_SEED = 10.0, 5.0, 2025


def moved(image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A slice ``(1, H, W)`` in [-1, 1] and its mask ``(H, W)`` under one random affine and elastic map.

    Outside of the slice the image is 0, the middle grey, as released; the mask is read from the nearest
    pixel.
    """
    size = image.shape[-1]
    grid = F.affine_grid(affine(rng, size)[None], [1, 1, size, size], align_corners=False) + elastic(size)
    picture = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    marks = F.grid_sample(mask[None, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return picture[0], marks[0, 0]


def affine(rng: np.random.Generator, size: int) -> Tensor:
    """Where output pixels are read from, ``(2, 3)`` in coordinates of [-1, 1] around the center."""
    angle, shear = (
        np.deg2rad(rng.uniform(-DEGREES, DEGREES)),
        np.deg2rad(rng.uniform(-SHEAR_DEGREES, SHEAR_DEGREES)),
    )
    shift = rng.uniform(-PIXELS, PIXELS, 2) * 2 / size
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = rng.uniform(*SCALE) * rotation @ np.array([[1, -np.tan(shear)], [0, 1]])
    inverse = np.linalg.inv(forward)
    return torch.tensor(np.column_stack([inverse, -inverse @ shift]), dtype=torch.float32)


@cache
def elastic(size: int) -> Tensor:
    """The constant displacement field ``(1, size, size, 2)`` in coordinates of [-1, 1]."""
    from scipy.ndimage import gaussian_filter

    draws = np.random.RandomState(ELASTIC_SEED)  # the generator of the release
    fields = [
        gaussian_filter(draws.rand(size, size) * 2 - 1, ELASTIC_SIGMA) * ELASTIC_ALPHA * 2 / size
        for _ in range(2)
    ]
    return torch.tensor(np.stack(fields, -1), dtype=torch.float32)[None]


def gamma(image: Tensor, rng: np.random.Generator) -> Tensor:
    """An image in [-1, 1] raised to a random power between its own extremes."""
    low, high = image.min(), image.max()
    span = (high - low).clamp(min=1e-5)
    exponent = float(rng.uniform(*GAMMA))
    changed: Tensor = ((image - low) / span) ** exponent * span + low
    return changed
