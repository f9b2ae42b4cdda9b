"""What a 2-D backbone says about the slices of a volume, made to agree along them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor


def smooth(values: Tensor, sigma: float) -> Tensor:
    """Values ``(S, ...)`` smoothed across slices by a Gaussian of ``sigma`` slices, cut off at the ends."""
    radius = int(2 * sigma)
    if radius == 0 or len(values) == 1:
        return values
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    offsets = torch.arange(len(values))[:, None] - torch.arange(len(values))[None]
    weight = torch.where(offsets.abs() <= radius, kernel[(offsets + radius).clamp(0, 2 * radius)], 0.0)
    out: Tensor = torch.tensordot(weight / weight.sum(1, keepdim=True), values, dims=1)
    return out


def grown(suspicious: NDArray[np.bool_], possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Suspicious slices ``(S,)`` and those that possible ones, one beside the other, join to them."""
    return np.asarray(ndimage.binary_propagation(suspicious, mask=suspicious | possible))


def bridged(suspicious: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """Suspicious slices ``(S,)``, and those between two of them that are at most ``reach`` slices apart.

    A tumor does not end and begin again within a few millimeters.
    """
    out = suspicious.copy()
    at = np.flatnonzero(suspicious)
    for first, second in pairwise(at):
        if second - first <= reach:
            out[first:second] = True
    return out
