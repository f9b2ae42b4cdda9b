"""Random geometry and contrast for batches of slices, on tensors, drawn from one generator.

The two are independent on purpose: support and query of an episode then share the anatomy but not the
contrast, which is how a model learns to work on MR sequences that it never saw.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage
from torch import Tensor

AIR = -0.9  # in [-1, 1], below which a pixel of a CT in the abdominal window is air
CURVE_KNOTS = 9
PLAIN = -0.22  # in [-1, 1], what organs are in that window without a contrast medium, about 50 HU
UNENHANCED = 0.3  # of the changes of phase
EVEN = 2.0  # pixels over which noise is told from what an organ shows


class Geometry(BaseModel):
    """Ranges of a random affine and elastic deformation.

    Attributes:
        degrees: Largest rotation, either way.
        zoom: Smallest and largest field of view relative to the slice (below 1 magnifies).
        stretch: Largest relative difference between the two axes.
        shift: Largest translation as a share of the slice.
        elastic: Root mean square displacement of the smooth random field, as a share of the slice.
        flip: Probability of a left-right flip.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    degrees: float = 10.0
    zoom: tuple[float, float] = (0.8, 1.2)
    stretch: float = 0.1
    shift: float = 0.06
    elastic: float = 0.012
    flip: float = 0.0


def sampling_grid(rng: np.random.Generator, n: int, size: int, geometry: Geometry) -> Tensor:
    """Where each output pixel is read from, ``(n, size, size, 2)`` in [-1, 1], for ``grid_sample``."""
    angle = np.deg2rad(rng.uniform(-geometry.degrees, geometry.degrees, n))
    low, high = np.log(geometry.zoom)
    zoom = np.exp(rng.uniform(low, high, n))
    ratio = np.exp(rng.uniform(-geometry.stretch, geometry.stretch, n))
    mirror = np.where(rng.random(n) < geometry.flip, -1.0, 1.0)
    shift = rng.uniform(-2 * geometry.shift, 2 * geometry.shift, (n, 2))
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    rows = [[cos * ratio * mirror, -sin, shift[:, 0]], [sin * mirror, cos / ratio, shift[:, 1]]]
    theta = torch.tensor(np.stack([np.stack(row, -1) for row in rows], 1), dtype=torch.float32)
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)
    if geometry.elastic > 0:
        coarse = torch.tensor(rng.normal(0, 2 * geometry.elastic, (n, 2, 7, 7)), dtype=torch.float32)
        field = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return grid


def warp(images: Tensor, grid: Tensor, *, nearest: bool = False) -> Tensor:
    """Read images ``(n, C, H, W)`` at a grid; outside a slice is its darkest value (0 for masks)."""
    low = images.amin((1, 2, 3), keepdim=True)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(images - low, grid, mode=mode, padding_mode="zeros", align_corners=False) + low


def intensity_curves(rng: np.random.Generator, n: int) -> Tensor:
    """Random look-up tables ``(n, 256)`` from and to [-1, 1].

    A third of them rise (gamma-like), a third are inverted, a third wander; all are mixed with the identity.
    """
    knots = np.linspace(-1, 1, CURVE_KNOTS)
    rising = np.cumsum(rng.dirichlet(np.full(CURVE_KNOTS - 1, 2.0), n), 1) * 2 - 1
    rising = np.concatenate([np.full((n, 1), -1.0), rising], 1)
    wander = rng.uniform(-1, 1, (n, CURVE_KNOTS))
    kind = rng.integers(0, 3, n)[:, None]
    curve = np.where(kind == 0, rising, np.where(kind == 1, -rising, wander))
    keep = rng.uniform(0, 0.6, (n, 1)) * (kind != 1)
    curve = keep * knots + (1 - keep) * curve
    dark = rng.random(n) < 0.75  # air and background mostly stay dark, as in every scanner
    curve[dark, 0] = -1
    table = np.stack([np.interp(np.linspace(-1, 1, 256), knots, row) for row in curve])
    low, high = table.min(1, keepdims=True), table.max(1, keepdims=True)
    return torch.tensor((table - low) / np.maximum(high - low, 1e-3) * 2 - 1, dtype=torch.float32)


def recolor(
    images: Tensor, rng: np.random.Generator, *, curve: float = 0.8, contrasts: Tensor | None = None
) -> Tensor:
    """Give images ``(n, 1, H, W)`` in [-1, 1] another contrast, bias field, noise and resolution.

    Args:
        images: Slices.
        rng: Source of all draws.
        curve: Probability that a contrast has a random intensity curve.
        contrasts: ``(n,)`` long in [0, n), the number of the contrast of each image; images with the same
            number share their intensity curve and nothing else. By default each image has its own contrast.
    """
    n, _, height, width = images.shape
    contrasts = torch.arange(n) if contrasts is None else contrasts
    index = ((images + 1) * 127.5).round().clamp(0, 255).long().flatten(1)
    curved = torch.gather(intensity_curves(rng, n)[contrasts], 1, index).view_as(images)
    out = torch.where(_chance(rng, n, curve)[contrasts], curved, images)
    field = torch.tensor(rng.normal(0, 0.25, (n, 1, 4, 4)), dtype=torch.float32)
    bias = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True).exp()
    out = torch.where(_chance(rng, n, 0.4), (out + 1) * bias - 1, out)
    soft = F.interpolate(F.avg_pool2d(out, 2), size=(height, width), mode="bilinear")
    out = torch.where(_chance(rng, n, 0.25), soft, out)
    spread = rng.exponential(0.035, (n, 1, 1, 1)) * (rng.random((n, 1, 1, 1)) < 0.5)
    sigma = torch.tensor(spread, dtype=torch.float32)
    return (out + sigma * noise(rng, out.shape)).clamp(-1, 1)


def another_window(
    image: NDArray[np.float32], lungs: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float32]:
    """What another window would make of a CT slice in the abdominal window.

    A narrower one turns fat black and bone white; a wider one takes contrast from tissue, and lungs are grey.

    Args:
        image: ``(H, W)`` in [-1, 1].
        lungs: ``(H, W)``; where they are air, a wider window shows them.
        rng: Source of all draws.
    """
    if rng.random() < 0.5:
        low, high = rng.uniform(-1.0, -0.3), rng.uniform(0.2, 1.0)
        return np.asarray(((image - low) / (high - low) * 2 - 1).clip(-1, 1), np.float32)
    floor, top = rng.uniform(-0.95, -0.2), rng.uniform(0.0, 1.0)
    tissue = floor + 0.1 + (image + 1) / 2 * max(top - floor - 0.1, 0.2)
    rough = noise(rng, (1, 1, *[edge // 2 for edge in image.shape]))
    texture = F.interpolate(rough, size=image.shape, mode="bilinear")[0, 0].numpy()
    grey = floor + rng.uniform(0, 0.08) * texture
    seen = np.where(image > AIR, tissue, np.where(lungs, grey, -1.0))
    return np.asarray(seen.clip(-1, 1), np.float32)


def another_phase(
    image: NDArray[np.float32], labels: NDArray[np.integer], rng: np.random.Generator
) -> NDArray[np.float32]:
    """What another phase after a contrast medium, or none of it, would make of labelled organs in a CT.

    Organs become brighter or darker, more or less even; their noise stays.

    Args:
        image: ``(H, W)`` in [-1, 1], in the abdominal window, or neighboring slices ``(n, H, W)``.
        labels: The same shape, 0 where nothing is labelled.
        rng: Source of all draws.
    """
    change = np.zeros_like(image)
    even = ndimage.gaussian_filter(image, EVEN, axes=(-2, -1))
    unenhanced, shift = rng.random() < UNENHANCED, rng.normal(0, 0.2)
    for label in np.unique(labels[labels > 0]):
        here = labels == label
        own = float(np.median(image[here]))
        level = PLAIN if unenhanced else own + shift
        gain = rng.uniform(0.1, 0.5) if unenhanced else rng.uniform(0.5, 1.4)
        change[here] = level + rng.normal(0, 0.05) - own + (gain - 1) * (even[here] - own)
    return np.asarray((image + ndimage.gaussian_filter(change, 0.8, axes=(-2, -1))).clip(-1, 1), np.float32)


class SliceAugmentation(BaseModel):
    """How single slices are varied for the trainings of the tumor networks.

    Attributes:
        windows: Chance of another window, on CT scans in the abdominal window.
        noisy: Chance of the noise of a sharp reconstruction.
        curve: Chance of another contrast, see :func:`recolor`.
        geometry: Ranges of position, size and shape.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: float = 0.35
    noisy: float = 0.15
    curve: float = 0.2
    geometry: Geometry = Geometry(degrees=15, zoom=(0.7, 1.25), shift=0.05, flip=0.3)


def augmented(
    image: NDArray[np.float32],
    labels: NDArray[np.generic],
    rng: np.random.Generator,
    options: SliceAugmentation,
    *,
    nearest: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A slice ``(H, W)`` in [-1, 1] and its labels, moved together, and the slice recolored.

    Slices ``(n, H, W)`` of a run are moved alike and share their contrast.

    Args:
        image: The slice.
        labels: A mask or a label map of the same shape.
        rng: Source of all draws.
        options: Ranges; the window is not changed here.
        nearest: Whether labels keep their values instead of being interpolated.
    """
    shape, edges = image.shape, image.shape[-2:]
    picture, marks = (torch.tensor(a, dtype=torch.float32).view(-1, 1, *edges) for a in (image, labels))
    grid = sampling_grid(rng, 1, edges[-1], options.geometry).expand(len(picture), -1, -1, -1)
    alike = torch.zeros(len(picture), dtype=torch.long)
    picture = recolor(warp(picture, grid), rng, curve=options.curve, contrasts=alike)
    if rng.random() < options.noisy:
        picture = sharp_noise(picture, rng)
    return picture.view(shape).numpy(), warp(marks, grid, nearest=nearest).view(shape).numpy()


def sharp_noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    """An image in [-1, 1] with the noise of a sharp reconstruction."""
    return (image + rng.uniform(0.05, 0.25) * noise(rng, image.shape)).clamp(-1, 1)


def noise(rng: np.random.Generator, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Standard normal noise that depends on the generator alone."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return torch.randn(shape, generator=generator)


def _chance(rng: np.random.Generator, n: int, probability: float) -> Tensor:
    return torch.tensor(rng.random((n, 1, 1, 1)) < probability)
