"""Synthetic tumors in real or synthetic organs: what a network can learn lesions from without labels.

The recipe follows label-free tumor synthesis (Hu et al. 2023, "Label-free liver tumor segmentation"): a blob
with an irregular outline, a texture of its own, a contrast to the organ that may be dark or bright, a rim and
a necrotic core, displaced surroundings (mass effect) and a border as soft as the scanner's. Ours: the noise
of the scan runs through the lesion, it may leave the organ it grows in, and it never is fainter than noise.
All of it works in any number of dimensions, on images in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.imaging.intensity import scan_noise

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

REACH = 2.3  # radii around the middle that a lesion and its mass effect touch
RIM, SOFT = 3, 0.7  # pixels around a lesion that is borrowed, and of the border of its room
LARGER = 0.7  # exponent of the draw of a radius; below 1 large lesions come up more often than log-uniformly


@dataclass(frozen=True)
class LesionOptions:
    """Ranges from which a lesion is drawn; lengths in pixels (voxels), intensities on the [-1, 1] scale.

    Attributes:
        radius: Smallest and largest radius; half of the lesions are in the lower third.
        irregular: How far the outline leaves an ellipsoid, as a share of the radius.
        contrast: Smallest and largest difference to the organ, of either sign (log-uniform).
        dark: Chance of a lesion darker than its organ, as most are in an enhanced one.
        visible: Smallest contrast in standard deviations of the scan's noise.
        texture: Largest standard deviation of the lesion's texture.
        rim: Chance of a rim brighter than the lesion.
        core: Chance of a necrotic core darker than the lesion.
        mass_effect: Largest displacement of the surroundings, as a share of the radius.
        blur: Smallest and largest width of the border.
        solid: Grey value of a tumor in air or fat: soft tissue in the few-shot field's window.
    """

    radius: tuple[float, float] = (2.5, 42.0)
    irregular: float = 0.45
    contrast: tuple[float, float] = (0.1, 1.2)
    dark: float = 0.7
    visible: float = 0.8
    texture: float = 0.15
    rim: float = 0.3
    core: float = 0.35
    mass_effect: float = 0.35
    blur: tuple[float, float] = (0.5, 1.8)
    solid: tuple[float, float] = (-0.55, 0.3)


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
    image: Image,
    organ: Mask,
    rng: np.random.Generator,
    *,
    room: Mask | None = None,
    options: LesionOptions | None = None,
    step: float = 1.0,
) -> Lesion:
    """Put one lesion into an organ.

    Args:
        image: ``(H, W)`` or ``(D, H, W)`` in [-1, 1].
        organ: Where its middle lies, the same shape.
        rng: Source of all draws.
        room: Where it may spread; left out, the organ.
        options: Ranges of its properties.
        step: Distance of the slices of a volume, in pixels.

    Returns:
        The image with the lesion and its mask.

    Raises:
        ValueError: Image, organ and room of different shapes.
    """
    options = options or LesionOptions()
    spread = organ if room is None else room
    if not image.shape == organ.shape == spread.shape:
        raise ValueError(f"organ {organ.shape} and room {spread.shape} in an image of shape {image.shape}")
    nothing = Lesion(image.copy(), np.zeros(organ.shape, bool))
    if not organ.any():
        return nothing
    spacing = (step, 1.0, 1.0)[-image.ndim :]
    center, radius = _place(organ, spread, rng, options, inside=room is None, spacing=spacing)
    reach = [REACH * radius / edge + 4 for edge in spacing]
    box = tuple(slice(max(0, int(c - r)), int(c + r + 1)) for c, r in zip(center, reach, strict=True))
    cut, middle = image[box], center - np.array([side.start for side in box])
    depth = _depth(cut.shape, middle, radius, rng, options.irregular, spacing=spacing)
    inside = (depth > 0) & spread[box]
    if not inside.any():
        return nothing
    pushed = _mass_effect(cut, middle, radius, rng.uniform(0, options.mass_effect), spacing=spacing)
    own = inside & organ[box] if (inside & organ[box]).any() else inside
    look = _look(image[box], own, depth, radius, rng, options)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), rng.uniform(*options.blur), axes=(-2, -1))
    nothing.image[box] = np.clip((1 - weight) * pushed + weight * look, -1, 1)
    nothing.mask[box] = weight > 0.5
    return nothing


def borrowed_lesion(
    image: Image,
    organ: Mask,
    rng: np.random.Generator,
    *,
    room: Mask,
    lender: Lesion,
    zoom: tuple[float, float] = (0.6, 2.2),
) -> Lesion:
    """Put a lesion of another slice into an organ, turned and of another size.

    Args:
        image: ``(H, W)`` in [-1, 1].
        organ: Where its middle lies, the same shape.
        rng: Source of all draws.
        room: Where it may spread.
        lender: A slice with lesions, of which one is taken.
        zoom: Smallest and largest factor of its size.

    Returns:
        The image with the lesion and its mask, which is empty where there was no room.
    """
    nothing = Lesion(image.copy(), np.zeros(organ.shape, bool))
    pieces, count = ndimage.label(lender.mask)
    if not count or not organ.any():
        return nothing
    number = int(rng.integers(count)) + 1
    box = tuple(
        slice(max(side.start - RIM, 0), side.stop + RIM) for side in ndimage.find_objects(pieces)[number - 1]
    )
    turns, flip, factor = int(rng.integers(4)), int(rng.choice([-1, 1])), float(rng.uniform(*zoom))
    look, shape = (
        ndimage.zoom(np.rot90(part, turns)[:, ::flip].astype(np.float32), factor, order=1)
        for part in (lender.image[box], pieces[box] == number)
    )
    points = np.argwhere(organ)
    start = points[rng.integers(len(points))] - np.array(look.shape) // 2
    low = np.maximum(start, 0)
    high = np.minimum(start + look.shape, image.shape)
    here = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    there = tuple(slice(*ends) for ends in zip(low - start, high - start, strict=True))
    weight = shape[there] * ndimage.gaussian_filter(room[here].astype(np.float32), SOFT)
    nothing.image[here] = (1 - weight) * image[here] + weight * look[there]
    nothing.mask[here] = (weight > 0.5) & room[here]
    return nothing


def _place(
    organ: Mask,
    spread: Mask,
    rng: np.random.Generator,
    options: LesionOptions,
    *,
    inside: bool,
    spacing: Sequence[float],
) -> tuple[NDArray[np.int64], float]:
    """Middle and radius: as large as there is space for, and deep in an organ that it must not leave."""
    distance = ndimage.distance_transform_edt(organ, sampling=spacing)
    space = distance if inside else ndimage.distance_transform_edt(spread, sampling=spacing)
    low, high = options.radius
    high = max(min(high, 1.2 * float(space.max())), low)
    radius = float(low * (high / low) ** (rng.random() ** LARGER))
    deep = min(0.6 * radius, float(distance.max())) if inside else 0.5
    points = np.argwhere(distance >= deep)
    return np.asarray(points[rng.integers(len(points))]), radius


def _depth(
    shape: tuple[int, ...],
    center: NDArray[np.int64],
    radius: float,
    rng: np.random.Generator,
    irregular: float,
    *,
    spacing: Sequence[float],
) -> Image:
    """Above 0 inside the lesion, 1 at its middle: a turned ellipsoid, its surface moved by smooth noise."""
    axes = np.exp(rng.uniform(-0.3, 0.3, len(shape)))
    turn = np.linalg.qr(rng.standard_normal((len(shape), len(shape))))[0]
    offsets = (np.moveaxis(np.indices(shape), 0, -1) - center) * spacing
    distance = np.linalg.norm((offsets @ turn) / (radius * axes / axes.mean()), axis=-1)
    waves = _smooth_noise(shape, max(rng.uniform(0.25, 0.6) * radius, 1.0), rng)
    return np.asarray(1 - distance + irregular * rng.uniform(0.1, 1.0) * waves, np.float32)


def _mass_effect(
    image: Image, center: NDArray[np.int64], radius: float, strength: float, *, spacing: Sequence[float]
) -> Image:
    """The image with its surroundings pushed away from the center, less and less up to twice the radius."""
    if strength == 0:
        return image
    grid = np.indices(image.shape).astype(np.float32)
    offsets = grid - center.reshape(-1, *[1] * image.ndim)
    edges = np.reshape(spacing, (-1, *[1] * image.ndim))
    distance = np.linalg.norm(offsets * edges, axis=0) / radius
    shrink = 1 - strength * np.clip(1 - distance / 2, 0, 1)
    where = center.reshape(-1, *[1] * image.ndim) + offsets * shrink
    return np.asarray(ndimage.map_coordinates(image, where, order=1, mode="nearest"), np.float32)


def _look(
    image: Image,
    organ: Mask,
    depth: Image,
    radius: float,
    rng: np.random.Generator,
    options: LesionOptions,
) -> Image:
    """Grey values of the lesion: level, texture at two scales, rim, core, the noise of the scan."""
    noise = scan_noise(image)
    own = _level(float(np.median(image[organ])), noise, rng, options)
    spread = rng.uniform(0.1, 1.0) ** 2 * options.texture
    fine, coarse = (_smooth_noise(depth.shape, scale, rng) for scale in (1.0, max(radius / 3, 1.0)))
    look = own + spread * (0.5 * fine + coarse)
    if rng.random() < options.rim:
        look += rng.uniform(0.1, 0.4) * ((depth > 0) & (depth < rng.uniform(0.15, 0.35)))
    if radius > 6 and rng.random() < options.core:
        look -= rng.uniform(0.1, 0.4) * ndimage.gaussian_filter(
            (depth > rng.uniform(0.3, 0.7)).astype(np.float32), 1.0
        )
    return np.asarray(look + noise * _smooth_noise(depth.shape, 0.6, rng), np.float32)


def _level(organ: float, noise: float, rng: np.random.Generator, options: LesionOptions) -> float:
    """Mean grey value: of soft tissue in air, fat and, at times, anywhere; else relative to the organ's."""
    low, high = options.contrast
    least = max(low, options.visible * noise)
    level = float(rng.uniform(*options.solid))
    if organ < -0.7 or (rng.random() < 0.15 and abs(level - organ) > least):
        return max(level, organ + least)
    contrast = np.exp(rng.uniform(np.log(least), np.log(max(high, least))))
    sign = -1.0 if rng.random() < options.dark else 1.0
    sign = 1.0 if organ - contrast < -0.95 else -1.0 if organ + contrast > 0.95 else sign
    return organ + sign * float(contrast)


def _smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Image:
    """Gaussian noise of unit variance, smooth over ``scale`` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), scale, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)
