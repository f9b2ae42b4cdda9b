"""The pseudo-healthy image that a reader sees: around a hole is what goes on in it.

*Ours*. What the denoiser draws into healthy tissue that was hidden from it is farther from the truth than a
smooth fill, at any share of the two (figures are in the model card), and takes far longer.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from latentseg.methods.diffugts.inpainting import smooth_fill

FINE_PIXELS = 0.7  # width of the Gaussian that grain is finer than
GRAIN = 0.7  # share of the scan's grain: more of it is as textured as the truth, and farther from it
NEAR_PIXELS = 8  # around a hole, what is usual there
USUAL = 2.0  # standard deviations, above which something is an edge and no grain


def continued(images: Tensor, holes: Tensor) -> Tensor:
    """Images whose holes hold what is around them: its shading, and the scan's own grain.

    Args:
        images: ``(B, 1, ...)`` in [-1, 1].
        holes: The same shape, 1 inside.

    Returns:
        ``(B, 1, ...)`` in [-1, 1]; outside of the holes the images themselves.
    """
    filled = smooth_fill(images, holes)
    for i in holes.flatten(1).any(1).nonzero().flatten().tolist():
        hole = holes[i, 0].bool()
        texture = torch.from_numpy(grain(images[i, 0].numpy(), hole.numpy()))
        filled[i, 0] = torch.where(hole, (filled[i, 0] + GRAIN * texture).clamp(-1, 1), filled[i, 0])
    return filled


def grain(image: NDArray[np.float32], hole: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What is finer than a pixel or so around a hole, mirrored into it along its border.

    Args:
        image: A slice or a block.
        hole: The same shape; it is not the whole image.

    Returns:
        The same shape; nothing outside of the hole.
    """
    fine = image - ndimage.gaussian_filter(image, FINE_PIXELS)
    around = ndimage.binary_dilation(hole, iterations=NEAR_PIXELS) & ~hole
    if not around.any():
        return np.zeros_like(image)
    limit = USUAL * np.median(np.abs(fine[around])) / 0.6745  # of a normal distribution
    border = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    last = np.array(image.shape).reshape(-1, *[1] * image.ndim) - 1
    mirrored = np.clip(2 * border - np.indices(image.shape), 0, last)
    return np.where(hole, np.clip(fine, -limit, limit)[tuple(mirrored)], 0).astype(np.float32)
