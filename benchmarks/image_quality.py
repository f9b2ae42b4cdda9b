"""Quality of made images: Frechet and perceptual distance with a declared feature network, and pasting.

The network is EfficientNet-Lite0, see :mod:`latentseg.backbones.image_features`. Natural images are not
scans: distances say how samples compare with real slices beside a floor and a ceiling, and are not comparable
with figures of other networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.image_features import FeatureNetwork

KEPT = 64  # principal components that a Frechet distance is taken in


def perceptual_distance(
    network: FeatureNetwork, a: Tensor, b: Tensor, *, inside: Tensor | None = None
) -> Tensor:
    """How differently images look, ``(B,)``: LPIPS (Zhang et al. 2018) without learned weights.

    Args:
        network: The feature network.
        a: ``(B, 1, H, W)`` in [-1, 1].
        b: The same shape.
        inside: ``(B, 1, H, W)``; where it is given, only positions that it touches count.

    Returns:
        Squared difference of features of unit length, mean over positions and over layers.
    """
    distances = []
    for left, right in zip(network.maps(a), network.maps(b), strict=True):
        apart = (F.normalize(left) - F.normalize(right)).square().sum(1, keepdim=True)
        weight = torch.ones_like(apart) if inside is None else F.adaptive_max_pool2d(inside, apart.shape[2:])
        distances.append((apart * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6))
    return torch.stack(distances).mean(0)


@dataclass(frozen=True)
class Subspace:
    """Where Frechet distances are taken: the first principal components of reference features.

    With fewer images than features a covariance is not known; in few components it is.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating], *, components: int = KEPT) -> Subspace:
        """Principal components of features ``(N, D)``."""
        values = np.asarray(features, np.float64)
        mean = values.mean(0)
        axes = np.linalg.svd(values - mean, full_matrices=False)[2][:components]
        return cls(mean, axes)

    def project(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """``(N, D)`` to ``(N, components)``."""
        return np.asarray((np.asarray(features, np.float64) - self.mean) @ self.axes.T)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Squared Frechet distance between the normal distributions that fit features ``(N, D)`` and ``(M, D)``.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al. 2017).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root).clip(0)
    means = float(np.square(a.mean(0) - b.mean(0)).sum())
    return means + float(np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(product).sum())


def paste(images: Tensor, filled: Tensor, masks: Tensor, *, seam: int = 3) -> Tensor:
    """Images ``(B, 1, ...)`` whose masked part comes from ``filled``, blended over ``seam`` pixels around it.

    Inside the mask the result is ``filled`` alone, so that nothing of the original is left there.
    """
    pool = F.avg_pool2d if masks.ndim == 4 else F.avg_pool3d
    grow = F.max_pool2d if masks.ndim == 4 else F.max_pool3d
    soft = masks.float()
    if seam:
        width = 2 * seam + 1
        wide = grow(soft, width, stride=1, padding=seam)
        soft = torch.maximum(soft, pool(wide, width, stride=1, padding=seam, count_include_pad=False))
    return soft * filled + (1 - soft) * images
