"""Images after a pass through the autoencoder, which pseudo-healthy versions are compared with."""

from __future__ import annotations

import threading
from typing import NamedTuple

import torch
from torch import Tensor

from latentseg.backbones.base import Backbone


class PseudoHealthy(NamedTuple):
    """Pseudo-healthy versions of ``B`` images.

    Attributes:
        images: ``(seeds, B, 1, ...)`` in [-1, 1].
        change: Change of the latents, ``z - z0``, ``(seeds, B, C, ...)``; empty where it is not needed.
    """

    images: Tensor
    change: Tensor

    def of(self, rows: Tensor) -> PseudoHealthy:
        """The versions of some images."""
        return PseudoHealthy(self.images[:, rows], self.change[:, rows])

    def joined(self, more: PseudoHealthy) -> PseudoHealthy:
        """These and more seeds."""
        return PseudoHealthy(torch.cat([self.images, more.images]), torch.cat([self.change, more.change]))


class Reconstructions:
    """Slices of a scan after a pass through the autoencoder, each computed when it is first needed.

    Args:
        backbone: Frozen.
        images: ``(S, 1, ...)`` in [-1, 1].
        latents: Of all of them, where they are known already.
    """

    def __init__(self, backbone: Backbone, images: Tensor, latents: Tensor | None = None) -> None:
        self.backbone, self.images, self.latents = backbone, images, latents
        self.decoded = torch.zeros_like(images)
        self.known = torch.zeros(len(images), dtype=torch.bool)
        self._lock = threading.Lock()

    def __getitem__(self, rows: Tensor) -> Tensor:
        """``(B, 1, ...)`` of the slices with some numbers, on the CPU; safe to ask for from many threads."""
        with self._lock:
            missing = rows[~self.known[rows]]
            if len(missing):
                latents = self.known_latents(missing)
                latents = self.backbone.encode(self.images[missing]) if latents is None else latents
                self.decoded[missing] = self.backbone.decode(latents).clamp(-1, 1).cpu()
                self.known[missing] = True
        return self.decoded[rows]

    def known_latents(self, rows: Tensor) -> Tensor | None:
        """Latents ``(B, C, ...)`` of slices with some numbers; None where they are not known."""
        return None if self.latents is None else self.latents[rows.to(self.latents.device)]


def reconstructed(backbone: Backbone, images: Tensor) -> Tensor:
    """Images ``(B, 1, ...)`` through the autoencoder."""
    return backbone.decode(backbone.encode(images)).clamp(-1, 1)
