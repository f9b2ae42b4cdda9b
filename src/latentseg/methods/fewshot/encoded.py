"""Slices of a scan after everything that does not depend on the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """Slices as the networks take them.

    Attributes:
        images: ``(S, 1, H, W)`` in [-1, 1].
        latents: ``(S, C, h, w)``.
        features: ``(S, D, h, w)`` in half precision, of the matching prior; None for a network without.
        looks: ``(S, D, 8, 8)``, see :func:`slice_looks`; None likewise.
    """

    images: Tensor
    latents: Tensor
    features: Tensor | None = None
    looks: Tensor | None = None

    def __getitem__(self, at: slice | Tensor) -> Encoded:
        """Some of the slices."""
        features, looks = (None if t is None else t[at] for t in (self.features, self.looks))
        return Encoded(self.images[at], self.latents[at], features, looks)

    @classmethod
    def join(cls, parts: Sequence[Encoded]) -> Encoded:
        """Slices of several, in order."""

        def joined(name: str) -> Any:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        return cls(*(joined(name) for name in ("images", "latents", "features", "looks")))
