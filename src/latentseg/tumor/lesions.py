"""Synthetic tumors in real or synthetic organs: what a network can learn lesions from without labels.

The recipe follows label-free tumor synthesis (Hu et al. 2023, "Label-free liver tumor segmentation"): a blob
with an irregular outline, a texture of its own, a contrast to the organ that may be dark or bright, a rim and
a necrotic core, displaced surroundings (mass effect) and a border as soft as the scanner's. All of it works
in any number of dimensions, on images in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LesionOptions:
    """Ranges from which a lesion is drawn; lengths in pixels (voxels), intensities on the [-1, 1] scale.

    Attributes:
        radius: Smallest and largest radius; most lesions are small (log-uniform).
        irregular: How far the outline leaves an ellipsoid, as a share of the radius.
        contrast: Smallest and largest difference to the organ, of either sign.
        texture: Largest standard deviation of the lesion's texture.
        rim: Chance of a rim brighter than the lesion.
        core: Chance of a necrotic core darker than the lesion.
        mass_effect: Largest displacement of the surroundings, as a share of the radius.
        blur: Smallest and largest width of the border.
    """

    radius: tuple[float, float] = (3.0, 30.0)
    irregular: float = 0.45
    contrast: tuple[float, float] = (0.12, 0.6)
    texture: float = 0.12
    rim: float = 0.35
    core: float = 0.3
    mass_effect: float = 0.35
    blur: tuple[float, float] = (0.5, 1.8)


@dataclass(frozen=True)
class Lesion:
    """An image with a lesion.

    Attributes:
        image: Like the image that was given, in [-1, 1].
        mask: Where the lesion is; empty where the organ had no room for one.
    """

    image: Image
    mask: Mask


def add_lesion(
    image: Image, organ: Mask, rng: np.random.Generator, *, options: LesionOptions | None = None
) -> Lesion:
    """Put one lesion into an organ.

    Args:
        image: ``(H, W)`` or ``(D, H, W)`` in [-1, 1].
        organ: Where it may grow, the same shape.
        rng: Source of all draws.
        options: Ranges of its properties.

    Returns:
        The image with the lesion and its mask.

    Raises:
        ValueError: Image and organ of different shapes.
    """
    if image.shape != organ.shape:
        raise ValueError(f"an organ of shape {organ.shape} in an image of shape {image.shape}")
    options = options or LesionOptions()
    if not organ.any():
        return Lesion(image.copy(), np.zeros(organ.shape, bool))
    radius = _radius(organ, rng, options)
    center = _center(organ, radius, rng)
    depth = _depth(organ.shape, center, radius, rng, options.irregular)
    inside = (depth > 0) & organ
    if not inside.any():
        return Lesion(image.copy(), np.zeros(organ.shape, bool))
    pushed = _mass_effect(image, center, radius, rng.uniform(0, options.mass_effect))
    look = _look(image[organ], depth, radius, rng, options)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), rng.uniform(*options.blur))
    blended = np.clip((1 - weight) * pushed + weight * look, -1, 1).astype(np.float32)
    return Lesion(blended, weight > 0.5)


def _radius(organ: Mask, rng: np.random.Generator, options: LesionOptions) -> float:
    """Log-uniform, no larger than what the organ can hold."""
    low, high = options.radius
    room = float(ndimage.distance_transform_edt(organ).max())
    high = max(min(high, 1.2 * room), low)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _center(organ: Mask, radius: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random point, deep enough for most of the lesion to lie within the organ where there is one."""
    distance = ndimage.distance_transform_edt(organ)
    deep = np.argwhere(distance >= min(0.6 * radius, float(distance.max())))
    return np.asarray(deep[rng.integers(len(deep))])


def _depth(
    shape: tuple[int, ...],
    center: NDArray[np.int64],
    radius: float,
    rng: np.random.Generator,
    irregular: float,
) -> Image:
    """Above 0 inside the lesion, 1 at its middle: a turned ellipsoid, its surface moved by smooth noise."""
    axes = np.exp(rng.uniform(-0.3, 0.3, len(shape)))
    turn = np.linalg.qr(rng.standard_normal((len(shape), len(shape))))[0]
    offsets = np.moveaxis(np.indices(shape), 0, -1) - center
    distance = np.linalg.norm((offsets @ turn) / (radius * axes / axes.mean()), axis=-1)
    waves = _smooth_noise(shape, max(radius / 2, 1.0), rng)
    return np.asarray(1 - distance + irregular * rng.uniform(0.2, 1.0) * waves, np.float32)


def _mass_effect(image: Image, center: NDArray[np.int64], radius: float, strength: float) -> Image:
    """The image with its surroundings pushed away from the center, less and less up to twice the radius."""
    if strength == 0:
        return image
    grid = np.indices(image.shape).astype(np.float32)
    offsets = grid - center.reshape(-1, *[1] * image.ndim)
    distance = np.linalg.norm(offsets, axis=0) / radius
    shrink = 1 - strength * np.clip(1 - distance / 2, 0, 1)
    where = center.reshape(-1, *[1] * image.ndim) + offsets * shrink
    return np.asarray(ndimage.map_coordinates(image, where, order=1, mode="nearest"), np.float32)


def _look(
    organ_values: NDArray[np.float32],
    depth: Image,
    radius: float,
    rng: np.random.Generator,
    options: LesionOptions,
) -> Image:
    """Grey values of the lesion: contrast, texture at two scales, rim, core."""
    sign = -1.0 if rng.random() < 0.6 else 1.0  # most tumors are darker than an enhanced organ
    level = float(np.median(organ_values)) + sign * rng.uniform(*options.contrast)
    spread = rng.uniform(0.2, 1.0) * options.texture
    fine, coarse = (_smooth_noise(depth.shape, scale, rng) for scale in (0.7, max(radius / 3, 1.0)))
    look = level + spread * (0.5 * fine + coarse)
    if rng.random() < options.rim:
        look += rng.uniform(0.1, 0.4) * ((depth > 0) & (depth < rng.uniform(0.15, 0.35)))
    if rng.random() < options.core:
        look -= rng.uniform(0.15, 0.4) * (depth > rng.uniform(0.4, 0.7))
    return np.asarray(look, np.float32)


def _smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Image:
    """Gaussian noise of unit variance, smooth over ``scale`` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), scale)
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)
