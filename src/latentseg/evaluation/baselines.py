"""Baselines without training, run beside the few-shot network on the same slices.

`MaskCopy` shows what position alone gives, `PrototypeMatching` what the backbone's frozen features alone
give, and `Registration` (in a file of its own) what position and a deformation give. What the matching prior
gives without the network is the segmenter without that part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.slices import SupportSlices

if TYPE_CHECKING:
    from torch import Tensor


class FeatureBackbone(Protocol):
    """The part of a backbone that the baseline needs."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps `(B, C_i, h_i, w_i)` of images `(B, 1, H, W)` in [-1, 1]."""


LAYOUT_GRID = 8


@dataclass(frozen=True)
class MaskCopy:
    """The mask of the support slice that looks most like the query slice, copied."""

    name: str = "support mask copied"

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Copy a mask to each of `(S, H, W)`."""
        return support.masks[nearest_support(support, query_slices)].astype(np.float32)


def nearest_support(support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.intp]:
    """Index `(S,)` of the support slice with the most similar layout; the first of equals."""
    return np.asarray((layouts(query_slices) @ layouts(support.images).T).argmax(axis=1))


def layouts(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coarse grey values of slices `(S, H, W)`, centered and of unit length, `(S, 64)`."""
    coarse = np.asarray(slices, np.float32)
    for axis in (1, 2):
        cuts = np.linspace(0, coarse.shape[axis], LAYOUT_GRID + 1).astype(int)
        sums = np.add.reduceat(coarse, cuts[:-1], axis=axis)
        coarse = sums / np.expand_dims(np.diff(cuts), axis=(0, 3 - axis))
    flat = coarse.reshape(len(coarse), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12), np.float32)


@dataclass(frozen=True, eq=False)
class PrototypeMatching:
    """Cosine matching of each query pixel with masked mean features of the support.

    Feature maps are brought to one grid, normalized to unit length per scale and concatenated, so every
    scale has one vote. With prototypes `fg` and `bg` (masked average pooling, as in PANet, Wang et al. 2019)
    the probability is `softmax([cos_bg, cos_fg] / temperature)`: foreground wins if `cos_fg > cos_bg`.

    Attributes:
        backbone: Frozen features.
        temperature: Sharpness of the probability; does not move the mask.
        grid: Side of the common feature grid.
        batch: Slices in one pass through the backbone.
        name: Name in tables.
        scales: Indices of the feature maps to use; empty takes all.
        fingerprint: Of the weights that the features come from.
    """

    backbone: FeatureBackbone
    temperature: float = 0.05
    grid: int = 64
    batch: int = 8
    name: str = "prototype matching"
    scales: tuple[int, ...] = ()
    fingerprint: str = ""

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Match `(S, H, W)` with the prototypes of the support."""
        import torch

        with torch.inference_mode():
            prototypes = self._prototypes(support)
            found = [self._probability(slab, prototypes) for slab in self._slabs(query_slices)]
            return np.asarray(torch.cat(found).numpy())

    def _prototypes(self, support: SupportSlices) -> Tensor:
        """Background and foreground `(2, C)`."""
        import torch
        from torch.nn import functional

        known = torch.cat([self._joined(slab) for slab in self._slabs(support.images)])
        weights = torch.from_numpy(support.masks.astype(np.float32))[:, None]
        weights = functional.interpolate(weights, size=known.shape[-2:], mode="area")
        return torch.stack([_masked_mean(known, 1 - weights), _masked_mean(known, weights)])

    def _probability(self, images: Tensor, prototypes: Tensor) -> Tensor:
        """Probability `(B, H, W)` of images `(B, 1, H, W)`; similarities are resized, not probabilities."""
        import torch
        from torch.nn import functional

        similar = torch.einsum("pc,bchw->bphw", prototypes, self._joined(images)) / self.temperature
        size = images.shape[-2:]
        logits = functional.interpolate(similar, size=size, mode="bilinear", align_corners=False)
        return logits.softmax(dim=1)[:, 1]

    def _slabs(self, slices: NDArray[np.float32]) -> tuple[Tensor, ...]:
        import torch

        images = torch.from_numpy(np.ascontiguousarray(slices, np.float32))[:, None]
        return tuple(images.split(self.batch))

    def _joined(self, images: Tensor) -> Tensor:
        """Unit-length feature vectors `(B, C, grid, grid)`, all scales joined."""
        import torch
        from torch.nn import functional

        maps = self.backbone.features(images)
        chosen = [maps[index] for index in self.scales] if self.scales else maps
        size = (self.grid, self.grid)
        resized = [
            functional.interpolate(m.detach().float().cpu(), size=size, mode="bilinear", align_corners=False)
            for m in chosen
        ]
        return functional.normalize(
            torch.cat([functional.normalize(m, dim=1) for m in resized], dim=1), dim=1
        )


def _masked_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Unit-length mean feature `(C,)` of features `(n, C, h, w)` under weights `(n, 1, h, w)`."""
    from torch.nn import functional

    total = weights.sum().clamp_min(1e-6)
    return functional.normalize((features * weights).sum(dim=(0, 2, 3)) / total, dim=0)
