"""Images through the autoencoder and nothing else: what a pseudo-healthy version is compared to."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from latentseg.backbones.base import Backbone


class Reconstructions:
    """Slices of a scan through the autoencoder, each when it is first asked for.

    Args:
        backbone: Frozen.
        images: ``(S, 1, ...)`` in [-1, 1].
    """

    def __init__(self, backbone: Backbone, images: Tensor) -> None:
        self.backbone, self.images = backbone, images
        self.decoded = torch.zeros_like(images)
        self.known = torch.zeros(len(images), dtype=torch.bool)
        self._lock = threading.Lock()

    def __getitem__(self, rows: Tensor) -> Tensor:
        """``(B, 1, ...)`` of the slices with some numbers, on the CPU; safe to ask for from many threads."""
        with self._lock:
            missing = rows[~self.known[rows]]
            if len(missing):
                self.decoded[missing] = reconstructed(self.backbone, self.images[missing]).cpu()
                self.known[missing] = True
        return self.decoded[rows]


def reconstructed(backbone: Backbone, images: Tensor) -> Tensor:
    """Images ``(B, 1, ...)`` through the autoencoder."""
    return backbone.decode(backbone.encode(images)).clamp(-1, 1)
